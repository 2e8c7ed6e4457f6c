"""
Every secret that passes through, looked for afterwards wherever it must not be.

A gateway and a database server of their own live through good days and bad ones. Then the real values, known from the sandbox's
books, the browsers and the settings, are searched: in the gateway's log, in every answer it gave, in every row, in the
database's files with its write-ahead log, and in its server log.
"""

from __future__ import annotations

import base64
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import EmbeddedPostgres, start_or_join
from tests.support.database import rows
from tests.support.gateway_process import Gateway

PROVIDERS = ("ghl", "google", "ringcentral")
BODY_CANARY = "canary in the body of a provider"
"""A sentence: a name such as `invalid_grant` does reach the log."""
pytestmark = pytest.mark.slow
BROKEN = {
    "a row that may not stand": (
        "alter table public.provider_data add constraint broken check (false) not valid",
        "alter table public.provider_data drop constraint broken",
    ),
    "a column that is gone": (
        "alter table gateway.event rename column data to gone",
        "alter table gateway.event rename column gone to data",
    ),
    "a database that gives up": (
        """
        create function public.give_up() returns trigger language plpgsql as
        $$ begin raise exception 'giving up' using errcode = '57014'; end $$;
        create trigger give_up before insert on public.provider_data for each row execute function public.give_up();
        """,
        "drop function public.give_up cascade",
    ),
    "a session that may not stand": (
        "alter table gateway.session add constraint broken check (false) not valid",
        "alter table gateway.session drop constraint broken",
    ),
}
"""What breaks the database, and what mends it. The first and the last make Postgres quote the row in its error."""


@dataclass
class Story:
    """What was lived through: the secrets by kind, and every answer that the gateway gave."""

    gateway: Gateway
    server: EmbeddedPostgres
    secrets: dict[str, set[str]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    def knows(self, kind: str, *values: str | None) -> None:
        self.secrets.setdefault(kind, set()).update(value for value in values if value)

    def person(self, name: str):
        """A user whose responses are all recorded."""
        person = self.gateway.person(name)
        person.browser.hooks["response"].append(lambda answer, *_, **__: self.hear(answer))
        self.signs_in(person)
        return person

    def signs_in(self, person) -> int:
        token = person.token()
        self.knows("Supabase access token", token)
        origin = {"Origin": self.gateway.sandbox.origin}
        return person.post("/session", {"access_token": token, "next": "/connections"}, headers=origin).status_code

    def hear(self, answer) -> None:
        """Keeps an answer, less the two places where a secret belongs: Set-Cookie, and the way to the provider."""
        self.knows("cookie", *answer.cookies.get_dict().values())
        kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() != "set-cookie"}
        onward = urlsplit(kept.get("location", ""))
        if answer.request.method == "POST" and answer.request.path_url.endswith("/connect") and onward.netloc:
            query = parse_qs(onward.query)
            self.knows("state", *query.get("state", ()))
            self.knows("nonce", *query.get("nonce", ()))
            del kept["location"]
        self.answers.append(f"{answer.status_code} {kept}\n{answer.text}")

    def learns(self) -> None:
        """What the sandbox saw and gave, and what the gateway was started with."""
        state, settings = self.gateway.sandbox.state, self.gateway.environ
        self.knows("code", *state.codes)
        self.knows("access token", *state.by_access)
        self.knows("refresh token", *state.by_refresh)
        self.knows("verifier", *(seen["form"].get("code_verifier") for seen in state.requests(endpoint="token")))
        self.knows("client secret", *(settings[name] for name in settings if name.endswith("_CLIENT_SECRET")))
        self.knows("Fernet key", *settings["GATEWAY_KEYS"].split(","))
        self.knows("a provider's words", BODY_CANARY, "alert(1)", "stolen=1", "It did not work")


def good_days(story: Story) -> None:
    """Connecting, again, disconnecting, saying no, in the wrong browser, a second time."""
    alice, bob = story.person("Alice Winter"), story.person("Bob Marsh")
    for provider in PROVIDERS:
        connection = alice.connects(provider)["connection"]
        alice.connects(provider)
        alice.get(alice.consents(provider, answer="deny"))
        callback = alice.consents(provider)
        bob.get(callback)
        alice.get(callback)
        bob.connects(provider, return_to=f"{story.gateway.sandbox.origin}/", display="popup")
        alice.get("/connections")
    alice.disconnects(connection)
    alice.get("/v1/connections", headers={"Authorization": f"Bearer {alice.token()}"})
    story.knows("Supabase access token", alice.token())


def bad_providers(story: Story) -> None:
    """Every way in which a token or account endpoint can fail, with texts that must not be repeated."""
    alice = story.person("Alice Winter")
    faults = [
        ("status", {"status": 500, "body": BODY_CANARY}),
        ("status", {"status": 400, "body": BODY_CANARY}),
        ("not_json", {}),
    ]
    faults += [("html_200", {}), ("error_description_markup", {}), ("error", {"error": BODY_CANARY}), ("error_200", {})]
    faults += [
        ("no_access_token", {}),
        ("id_token", {"kind": "nonce"}),
        ("expires_in", {"value": BODY_CANARY}),
        ("reset", {}),
    ]
    for provider in ("google", "ringcentral"):
        for name, options in faults:
            if name == "id_token" and provider != "google":
                continue
            story.gateway.sandbox.state.add_fault(name, provider, "token", **options)
            alice.get(alice.get(alice.consents(provider)).headers["Location"])
        story.gateway.sandbox.state.add_fault("status", provider, "userinfo", status=500, body=BODY_CANARY)
        alice.get(alice.consents(provider))
        story.gateway.sandbox.state.add_fault("error_description_markup", provider, "authorize")
        alice.get(story.gateway.sandbox.consents(alice.begins(provider)))


def bad_databases(story: Story) -> None:
    """Each break after the code was redeemed, or while a session is made; the answers' statuses are kept."""
    for name, (broken, mended) in BROKEN.items():
        alice = story.person("Alice Winter")
        callback = alice.consents("ringcentral")
        rows(story.gateway.dsn, broken)
        story.statuses[name] = story.signs_in(alice) if "session" in name else alice.get(callback).status_code
        rows(story.gateway.dsn, mended)
        alice.get(callback)


@pytest.fixture(scope="module")
def story():
    folder = Path(tempfile.mkdtemp(prefix="gateway-canaries-"))
    folder.chmod(0o711)
    with start_or_join(folder) as server:
        apply_schema(server.dsn)
        gateway = Gateway(folder / "gateway", server.dsn).start()
        lived = Story(gateway, server)
        try:
            for chapter in (good_days, bad_providers, bad_databases):
                chapter(lived)
            lived.learns()
            yield lived
        finally:
            gateway.stop()
    shutil.rmtree(folder)


def leaks(story: Story, text: str) -> dict[str, int]:
    """How many secrets of each kind stand in `text`: as they are, encoded for an address, or in base64."""

    def stands(value: str) -> bool:
        plain = value.encode()
        forms = {
            value,
            quote(value, safe=""),
            base64.b64encode(plain).decode(),
            base64.urlsafe_b64encode(plain).decode(),
        }
        return any(form in text for form in forms)

    found = {kind: sum(map(stands, values)) for kind, values in story.secrets.items()}
    return {kind: count for kind, count in found.items() if count}


def readable(paths) -> str:
    """Every run of at least eight printable characters in these files, each once."""
    runs: set[bytes] = set()
    for path in paths:
        runs.update(re.findall(rb"[ -~]{8,}", path.read_bytes()))
    return b"\n".join(runs).decode("ascii")


def test_the_story_was_eventful(story):
    """
    Enough of each kind was in play, and the database did fail: an empty search would prove nothing.
    """
    assert dict.fromkeys(story.secrets, True) == {kind: bool(values) for kind, values in story.secrets.items()}
    assert {
        "code",
        "state",
        "nonce",
        "verifier",
        "access token",
        "refresh token",
        "client secret",
        "Fernet key",
        "cookie",
    } <= {kind for kind, values in story.secrets.items() if len(values) >= (1 if kind == "Fernet key" else 4)}
    assert [500, 500, 503, 500] == list(story.statuses.values())


def test_the_log_holds_no_secret(story):
    """
    Every refusal and failure is in it, and nothing of what was refused.
    """
    log = story.gateway.log.read_text()

    assert "request.failed" in log or "request.refused" in log
    assert {} == leaks(story, log)


def test_no_response_holds_a_secret(story):
    """
    Pages, JSON and headers, but for Set-Cookie and the one Location that takes the browser to the provider.
    """
    assert len(story.answers) > 100
    assert {} == leaks(story, "\n".join(story.answers))


def test_no_row_holds_a_secret(story):
    """
    Every column of every table that is not Postgres' own, events and queues included.
    """
    tables = (
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'gateway', 'auth')"
    )
    texts = [
        text
        for table in rows(story.gateway.dsn, tables)
        for text in rows(story.gateway.dsn, f"select t::text from {table} t")  # noqa: S608 - a name from pg_tables
    ]

    assert any("gAAAAA" in text for text in texts)
    assert {} == leaks(story, "\n".join(texts))


def test_the_databases_files_hold_no_secret(story):
    """
    The data folder with its write-ahead log, after a checkpoint: it has encrypted values and no plain secret.
    """
    with psycopg.connect(story.server.dsn, autocommit=True) as connection:
        connection.execute("checkpoint")
    files = [path for path in (story.server.home / "data").rglob("*") if path.is_file()]

    text = readable(files)

    assert any(path.parent.name == "pg_wal" for path in files)
    (sealed,) = rows(story.gateway.dsn, "select token from public.provider_data limit 1")
    assert sealed[:60] in text
    assert {} == leaks(story, text)


def test_the_database_servers_log_holds_no_secret(story):
    """
    Neither statements nor the rows that errors quote, not even encrypted values.
    """
    log = (story.server.home / "log").read_text()

    assert "violates check constraint" in log
    assert {} == leaks(story, log)
    assert "gAAAAA" not in log
