"""
docs/partners.md compared with the API; and its example, run unchanged against a whole gateway.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import requests
import requests_mock
from cryptography.fernet import Fernet

from gateway.cli.main import main
from gateway.database.migrate import SQL
from gateway.errors import MethodNotAllowed, ProviderUnavailable, every_problem
from gateway.settings import read_settings
from gateway.web.app import build_app
from gateway.web.auth_rate_limit import FAILURES_PER_MINUTE
from gateway.web.error_responses import respond
from gateway.web.v1.openapi import operations
from gateway.web.v1.schemas import EVENT_TYPES
from tests.support import documented
from tests.support.database import rows
from tests.support.link_partner import new_partner
from tests.support.partners import partner_of, recorded_reads

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "partners.md").read_text(encoding="utf-8")
EXAMPLE = documented.example("python", "class Gateway")
URL = "https://connect.example.com"
PROBLEMS = {kind.slug: kind for kind in every_problem()}


def application():
    """The application without a database."""
    settings = read_settings({"GATEWAY_KEYS": Fernet.generate_key().decode(), "GATEWAY_PUBLIC_URL": URL})
    return build_app(SimpleNamespace(settings=settings))


@pytest.fixture(scope="module")
def calls():
    return list(operations(application()))


def rows_below(heading):
    """The cells of each row of the table below a heading, without those of its subsections."""
    section = re.split(r"\n###? ", DOCUMENT.split(f"\n## {heading}\n")[1])[0]
    return [
        [cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row.startswith("| ")
    ][2:]


def test_the_document_lists_every_call_with_its_scope_and_no_other(calls):
    """
    Both ways, against what the routes say of themselves.
    """
    told = {(row[0].strip("`"), row[1].strip("`")) for row in rows_below("The calls")}

    assert {(f"{each.method} {each.path}", each.call.scope or "any") for each in calls} == told


def test_the_document_lists_every_refusal_below_its_remedy_and_no_other(calls):
    """
    Whatever a call may be refused with, and who must act then.
    """
    told = {slug: row[0].strip("`") for row in rows_below("When it says no") for slug in re.findall(r"`(\w+)`", row[2])}
    there = {kind.slug: kind.remedy for each in calls for kind in (*each.errors, MethodNotAllowed)}

    assert there == told


def test_the_limits_in_the_document_are_those_that_there_are(database):
    """
    What a partner may read by the hour unless its operator says otherwise, and what wrong keys may cost.
    """
    partner_of(database, reach="own")
    [limits] = rows(database, "select reads_per_hour, connections_per_hour from gateway.partner")
    of_users = re.search(r"then (\d+) else p\.reads_per_hour", (SQL / "functions" / "tokens.sql").read_text())
    for limit in (*limits, int(of_users[1])):
        assert f" {limit:,} " in DOCUMENT.split("\n## Limits\n")[1]
    assert f"after {FAILURES_PER_MINUTE.amount} refusals in a minute" in DOCUMENT


def test_the_document_lists_every_event_that_a_partner_may_see_and_no_other():
    """
    Against what the schema writes; what freezes all reads concerns no partner and no provider.
    """
    source = (ROOT / "schema.sql").read_text(encoding="utf-8")
    python = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    nouns = "connect|connection|consent|grant|install|key|ledger|link|partner|provider|proxy|tokens|webhook"
    recorded = "".join(re.findall(r"append_event\(([^)]*)", python))
    there = set(re.findall(rf"'((?:{nouns})\.[a-z_]+)'", source)) | set(re.findall(r'"([a-z]+\.[a-z_]+)"', recorded))
    there |= {f"{kind}.{verb}" for kind in ("partner", "provider") for verb in ("frozen", "thawed")}
    written = re.findall(r"insert into gateway\.event \([a-z_, ]+\)\s+(?:values \(|select )(.{9})", source)

    assert all(re.match(r"'|kind |case |p_type", each) for each in written)
    listed = re.findall(r"`([a-z_]+\.[a-z_]+)`", " ".join(row[0] for row in rows_below("What happened")))
    assert there | {"provider_event.received"} == set(listed)
    assert sorted(listed) == list(EVENT_TYPES)


def test_a_provider_that_is_away_is_said_with_the_seconds_where_they_are_known():
    """
    The example waits for them; without known seconds there is no header. A refresh is not told to connect again.
    """
    app = application()
    known, unknown = ProviderUnavailable("down"), ProviderUnavailable("down")
    known.retry_after = 6.2
    with app.test_request_context("/v1/connections/1/token"):
        said = [respond(error) for error in (known, unknown)]

    assert ["7", None] == [each.headers.get("Retry-After") for each in said]
    assert "connect again" not in said[0].get_data(as_text=True)


@pytest.mark.parametrize("document", ["docs/partners.md", "docs/operations.md", "README.md"])
def test_every_command_in_the_documents_is_one_that_there_is(document):
    """
    Word for word: its name, its options, and what they take.
    """
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"^\| `python .*$", "", text, flags=re.MULTILINE)  # the list of commands has names alone
    lines = re.findall(r"python -m gateway ((?:partners|connections|events) [^`\n|]*)", text)

    assert lines
    for line in lines:
        words = shlex.split(
            re.sub(r"<position>:<hash>", f"1:1.{'0' * 64}", line.replace("<id>", str(uuid.uuid4()))), comments=True
        )
        group = main.commands[words[0]]
        command = group.commands[words[1]]
        context = click.Context(command, info_name=words[1], resilient_parsing=False)
        command.parse_args(context, words[2:])


# -- your own back end ------------------------------------------------------------------------------------------------

needs_node = pytest.mark.skipif(
    not os.environ.get("CI") and not documented.HAS_NODE, reason="needs node and `npm ci` in tests/node"
)
PYTHON = "import json; print(json.dumps([api_of('{user}', name) for name in ('google', 'zoom', 'ringcentral')]))"
TYPESCRIPT = "console.log(JSON.stringify(await Promise.all(['google', 'zoom', 'ringcentral'].map((name) => apiOf('{user}', name)))));"


@pytest.mark.parametrize(
    ("run", "then"),
    [(documented.run_python, PYTHON), pytest.param(documented.run_typescript, TYPESCRIPT, marks=needs_node)],
)
def test_the_short_example_finds_the_account_of_a_user_and_calls_its_api(gateway, tmp_path, run, then):
    """
    Nothing where the account is not connected, and where it has to be connected again.
    """
    alice, own = gateway.person("Alice Winter"), new_partner(gateway, reach="all")
    for provider in ("google", "ringcentral"):
        alice.connects(provider)
    ended = "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused' where user_id = %s and provider = 'ringcentral' returning 1"
    assert [1] == rows(gateway.dsn, ended, alice.id)
    environ = {"CONNECT_URL": gateway.url, "CONNECT_KEY": own.key}

    ran = run(tmp_path, "CONNECT_KEY", then.format(user=alice.id), **environ)
    [google, *others] = json.loads(ran.stdout)

    assert [None, None] == others
    headers = google["headers"] if isinstance(google, dict) else google[1]
    answer = requests.get(f"{gateway.sandbox.origin}/google/v1/userinfo", headers=headers, timeout=30)
    assert 200 == answer.status_code


USE = """
import { createServer } from "node:http";

const [url, partner, own, id, user, back, ended] = JSON.parse(process.env.GIVEN!);
const told: unknown[] = [];
const gateway = new Gateway(url, own);
const connection = { id, user_id: user, provider: "google" };
const first = [await tokenOrLink(gateway, connection, back), await tokenOrLink(gateway, connection, back)];
told.push(JSON.stringify(first[0]) === JSON.stringify(first[1]), (await gateway.another(id)) === (await gateway.token(id)));
told.push(await tokenOrLink(gateway, { ...connection, id: ended }, back));
const kept: number[] = [];
await catchUp(gateway, 0, (position) => kept.push(position));
told.push(kept.length > 2 && kept.every((each, at) => at === 0 || each > kept[at - 1]!));
await new Gateway(url, partner).token(id).catch((refused) => told.push([refused.status, refused.code, refused.remedy]));
await gateway.complete("../connections", "x", user).catch((refused) => told.push(refused.code));

let calls = 0;
const busy = createServer((_, answer) => {
  calls++;
  if (calls === 2) return answer.end('{"connection_id": "1", "access_token": "t", "expires_at": null}');
  answer.writeHead(429, { "Retry-After": calls === 1 ? "1" : "3600", "Content-Type": "application/problem+json" });
  answer.end('{"code": "rate_limited", "remedy": "wait"}');
}).listen(0, "127.0.0.1", async () => {
  const other = new Gateway(`http://127.0.0.1:${busy.address().port}`, "key");
  told.push([await other.token("1"), await other.token("1"), calls]);
  await other.another("1").catch((refused) => told.push([refused.code, refused.waitSeconds]));
  console.log(JSON.stringify(told));
  busy.closeAllConnections();
  busy.close();
});
"""


@needs_node
def test_the_typescript_client_does_what_the_python_client_does(gateway, tmp_path):
    """
    One read for many uses, a new token on demand, a link where only the owner can help, events in order, refusals, and waits that end.
    """
    alice, own, other = gateway.person("Alice Winter"), new_partner(gateway, reach="all"), new_partner(gateway)
    held, ended = (alice.connects(provider)["connection"] for provider in ("google", "zoom"))
    over = "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused' where id = %s returning 1"
    assert [1] == rows(gateway.dsn, over, ended)
    given = [gateway.url, other.key, own.key, held, alice.id, f"{gateway.sandbox.origin}/back", ended]

    ran = documented.run_typescript(tmp_path, "class Gateway", USE, GIVEN=json.dumps(given))
    assert "" == ran.stderr
    same, renewed, linked, in_order, *refused = json.loads(ran.stdout)

    assert [True] * 3 == [same, renewed, in_order]
    assert 200 == alice.get(linked["link"]).status_code
    assert [[404, "not_found", "fix_request"], "not_found"] == refused[:2]
    assert [["t", "t", 2], ["rate_limited", 3600]] == refused[2:]
    assert 2 == recorded_reads(gateway.dsn, connection_id=held)


# -- the example -----------------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch):
    """What the example defines. Its pauses are noted in `slept` and take no time."""
    defined, slept = {}, []
    exec(compile(EXAMPLE, "partners.md", "exec"), defined)  # noqa: S102 - ours, from the document
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        slept.append(seconds)
        clock.now += seconds

    defined["time"] = SimpleNamespace(time=defined["time"].time, monotonic=lambda: clock.now, sleep=sleep)
    return SimpleNamespace(**defined, slept=slept)


@pytest.fixture
def played(example):
    """The example's Gateway, with simulated responses."""
    with requests_mock.Mocker() as wire:
        yield SimpleNamespace(gateway=example.Gateway(URL, "gw_live_key"), wire=wire)


TOKEN = f"{URL}/v1/connections/1/token"


def token(text, seconds):
    expires_at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat() if seconds else None
    return {"json": {"connection_id": "1", "access_token": text, "expires_at": expires_at}}


def problem(slug, **headers):
    kind = PROBLEMS[slug]
    body = {"type": f"{URL}/problems/{slug}", "status": kind.status, "remedy": kind.remedy, "detail": kind.detail}
    return {"status_code": kind.status, "json": body, "headers": {"Content-Type": "application/problem+json"} | headers}


def test_the_example_reads_a_token_once_and_keeps_it(example, gateway):
    """
    Against the whole gateway: one read for many uses, then a new one on demand; both are good at the provider.
    """
    alice, partner = gateway.person("Alice Winter"), new_partner(gateway, reach="all")
    connection = {"id": alice.connects("google")["connection"], "user_id": alice.id, "provider": "google"}
    client = example.Gateway(gateway.url, partner.key)

    first = [example.token_or_link(client, connection, None) for _ in range(5)]
    second = client.another(connection["id"])

    assert 1 == len(set(first))
    assert first[0][0] != second == client.token(connection["id"])
    bearer = {"Authorization": f"Bearer {second}"}
    assert 200 == requests.get(f"{gateway.sandbox.origin}/google/v1/userinfo", headers=bearer, timeout=30).status_code
    assert 2 == recorded_reads(gateway.dsn, connection_id=connection["id"])


def test_the_example_sends_the_owner_to_a_link_where_only_they_can_help(example, gateway):
    """
    409 needs_reauthorization, by the whole gateway: the link is one that the owner may open.
    """
    alice, partner = gateway.person("Alice Winter"), new_partner(gateway, reach="all")
    connection = {"id": alice.connects("google")["connection"], "user_id": alice.id, "provider": "google"}
    ended = "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused' where id = %s returning 1"
    assert [1] == rows(gateway.dsn, ended, connection["id"])

    nothing, link = example.token_or_link(
        example.Gateway(gateway.url, partner.key), connection, f"{gateway.sandbox.origin}/back"
    )

    assert nothing is None
    assert 200 == alice.get(link).status_code


def test_the_example_completes_what_an_unknown_browser_brings_back(played):
    """
    With the user signed in there; the browser's query cannot change the address.
    """
    session = str(uuid.uuid4())
    asked = played.wire.post(f"{URL}/v1/connect-sessions/{session}/complete", json={"id": "1"})

    assert {"id": "1"} == played.gateway.complete(session, "confirmed", "alice")
    assert {"user_id": "alice", "confirmation": "confirmed"} == asked.last_request.json()
    played.gateway.complete(session, "confirmed", "alice", answer="no")
    assert "no" == asked.last_request.json()["answer"]
    with pytest.raises(ValueError, match="badly formed"):
        played.gateway.complete("../connections", "confirmed", "alice")


def test_the_example_reads_events_page_by_page_and_forgets_what_is_over(played, example):
    """
    From the position that was kept, until there is no further page; a token whose consent ended is asked for again.
    """
    pages = [
        {"items": [{"type": "tokens.read", "connection_id": "1", "position": 4}], "next_cursor": "4"},
        {"items": [], "next_cursor": "9"},
        {"items": [{"type": "consent.ended", "connection_id": "2", "position": 12}], "next_cursor": None},
    ]
    asked = played.wire.get(f"{URL}/v1/events", [{"json": page} for page in pages])
    played.gateway.tokens.update({"1": ("kept", 0.0), "2": ("over", 0.0)})
    kept = []

    example.catch_up(played.gateway, 3, kept.append)

    assert [4, 12] == kept
    assert ["3", "4", "9"] == [each.qs["after"][0] for each in asked.request_history]
    assert {"1"} == set(played.gateway.tokens)


def test_the_example_raises_what_only_its_own_people_can_fix(example, gateway):
    """
    A wrong key is 401, said once and not tried again; what it does not reach is 404. No secret is in what is raised.
    """
    nobody = new_partner(gateway)
    wrong = nobody.key[:-1] + ("a" if nobody.key[-1] != "a" else "b")

    for key, refused in ((wrong, (401, "unauthenticated")), (nobody.key, (404, "not_found"))):
        with pytest.raises(example.Refused) as raised:
            example.Gateway(gateway.url, key).token("00000000-0000-4000-8000-000000000000")
        assert refused == (raised.value.status, raised.value.slug)
        assert "fix_request" == raised.value.remedy
        assert key not in str(raised.value)
    assert [] == example.slept


def test_the_example_keeps_a_token_until_its_last_minute(played):
    """
    Good for an hour: asked for once. Good for half a minute: every time. Without a time: for some minutes.
    """
    for seconds, reads in ((3600, 1), (30, 3), (None, 1)):
        played.gateway.tokens.clear()
        asked = played.wire.get(TOKEN, **token("t", seconds))
        assert ["t"] * 3 == [played.gateway.token("1") for _ in range(3)]
        assert reads == asked.call_count


@pytest.mark.parametrize("slug", ["rate_limited", "refresh_in_progress", "database_unavailable"])
def test_the_example_waits_as_long_as_retry_after_says(played, example, slug):
    """
    429 and 503: the seconds in Retry-After, then the same again.
    """
    asked = played.wire.get(TOKEN, [problem(slug, **{"Retry-After": "7"}), token("t", 3600)])

    assert "t" == played.gateway.token("1")
    assert ([7], 2) == (example.slept, asked.call_count)


def test_the_example_does_not_wait_for_ever(played, example):
    """
    An hour is more patience than a request has: it is raised, with the seconds, for a later try.
    """
    played.wire.get(TOKEN, **problem("rate_limited", **{"Retry-After": "3600"}))

    with pytest.raises(example.Refused) as raised:
        played.gateway.token("1")

    assert (3600, "wait") == (raised.value.wait_seconds, raised.value.remedy)
    assert [] == example.slept


def test_the_example_raises_what_is_no_problem_document(played, example):
    """
    A proxy in between answers what it likes.
    """
    played.wire.get(TOKEN, status_code=502, text="<h1>Bad gateway</h1>", headers={"Content-Type": "text/html"})

    with pytest.raises(example.Refused) as raised:
        played.gateway.token("1")

    assert (502, "unexpected", "report") == (raised.value.status, raised.value.slug, raised.value.remedy)
