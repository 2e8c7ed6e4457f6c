"""
Links finished in a browser without a session: the grant is pending until the partner's server names the user, once.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.attack_helpers import owned
from tests.support.database import rows
from tests.support.gateway_process import told, whole_gateway, without_request_id
from tests.support.link_partner import consents, new_partner

BERLIN, LISBON = "NorthwindBerlin00001", "NorthwindLisbon00001"


def finishes(stranger, link, account=BERLIN):
    """Finishes the link in a browser without a session; the confirmation that only this browser has."""
    answer = stranger.get(consents(stranger, link["url"], account))
    assert answer.headers["Location"].startswith(f"{stranger.gateway.sandbox.origin}/back?"), answer.headers
    return told(answer)


def waits(partner, whose, account=BERLIN):
    """A finished link of that user, and what came back."""
    link = partner.makes(whose, "ghl")
    return link, finishes(whose, link, account)


def pending_grants(gateway, link):
    return rows(gateway.dsn, "select id::text from gateway.pending_grant where connect_session_id = %s", link["id"])


def standing(gateway, person):
    found = "select id::text, account_id, generation from gateway.connection where user_id = %s order by created_at"
    return rows(gateway.dsn, found, person.id)


def refused(gateway, link):
    """The `error` of each link.refused of this link, and whose it is."""
    found = "select data ->> 'error', partner_id from gateway.event where type = 'link.refused' and data ->> 'connect_session' = %s"
    return rows(gateway.dsn, found, link["id"])


def slug(answer):
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


def test_finished_in_an_unknown_browser_nothing_is_connected_yet(gateway, acme, alice):
    """
    The browser brings a confirmation, its session and no connection; the partner sees it wait and reads no token.
    """
    link, back = waits(acme, alice)
    (waiting,) = pending_grants(gateway, link)

    assert {"connect_session", "confirmation", "provider"} == set(back)
    assert (link["id"], "ghl", 43) == (back["connect_session"], back["provider"], len(back["confirmation"]))
    assert 0 == owned(gateway, alice)
    shown = acme.calls("GET", f"/v1/connections/{waiting}").json()
    assert ("pending_confirmation", alice.id, 1) == (shown["status"], shown["user_id"], shown["type"])
    for query in ("", "&status=pending_confirmation", "&provider=ghl&type=1"):
        assert [shown] == acme.calls("GET", f"/v1/connections?user_id={alice.id}{query}").json()["items"]
    assert [] == acme.calls("GET", f"/v1/connections?user_id={alice.id}&status=active").json()["items"]
    assert (409, "pending_confirmation") == slug(acme.token(waiting))
    assert (409, "pending_confirmation") == slug(acme.calls("POST", f"/v1/connections/{waiting}/check"))
    other = new_partner(gateway, reach="all")
    assert [404, 404] == [
        other.token(waiting).status_code,
        other.calls("GET", f"/v1/connections/{waiting}").status_code,
    ]


def test_the_right_user_and_confirmation_connect(gateway, acme, alice):
    """
    Under the id that was waiting; active, shared with this partner, and readable.
    """
    link, back = waits(acme, alice)
    (waiting,) = pending_grants(gateway, link)

    answer = acme.completes(link["id"], alice, back["confirmation"])

    assert (200, waiting, "active", alice.id) == (
        answer.status_code,
        answer.json()["id"],
        answer.json()["status"],
        answer.json()["user_id"],
    )
    assert answer.json() == acme.calls("GET", f"/v1/connections/{waiting}").json()
    assert 200 == acme.token(waiting).status_code
    assert [] == pending_grants(gateway, link)
    alice.signs_in()
    assert f"Shared with <bdi>{acme.name}</bdi>" in alice.get("/connections").text


@pytest.mark.parametrize(
    ("confirmation", "whom", "said"),
    [
        ("right", "bob", (403, "user_mismatch")),
        ("x" * 43, "alice", (400, "state_invalid")),
        ("", "alice", (400, "state_invalid")),
        (None, "alice", (400, "state_invalid")),
    ],
)
def test_after_a_wrong_user_or_confirmation_the_grant_is_revoked_at_once(
    gateway, acme, alice, confirmation, whom, said
):
    """
    There is one try: nothing is connected, the grant is revoked before the response, and the correct confirmation
    comes too late.
    """
    link = acme.makes(alice, "ringcentral")
    back = finishes(alice, link, None)
    before = len(gateway.sandbox.state.revocations)
    who = alice if whom == "alice" else gateway.person("Bob Marsh")

    answer = acme.completes(link["id"], who, back["confirmation"] if confirmation == "right" else confirmation)

    assert said == slug(answer)
    assert len(gateway.sandbox.state.revocations) > before
    assert [(said[1], acme.id)] == refused(gateway, link)
    assert (400, "state_invalid") == slug(acme.completes(link["id"], alice, back["confirmation"]))
    assert 0 == owned(gateway, alice, who)


def test_anothers_session_is_like_none(gateway, acme, alice):
    """
    Another partner that knows everything gets a 404 and changes nothing; an invented id gets the same.
    """
    link, back = waits(acme, alice)
    other = new_partner(gateway)

    foreign = other.completes(link["id"], alice, back["confirmation"])
    none = other.completes("00000000-0000-4000-8000-000000000000", alice, back["confirmation"])

    assert (404, without_request_id(foreign)) == (foreign.status_code, without_request_id(none))
    assert 200 == acme.completes(link["id"], alice, back["confirmation"]).status_code


def test_what_does_not_fit_the_call_uses_nothing_up(gateway, acme, alice):
    """
    A malformed body, a key without the scope, a user's own token: refused, and the confirmation still serves.
    """
    link, back = waits(acme, alice)
    path = f"/v1/connect-sessions/{link['id']}/complete"
    right = {"user_id": alice.id, "confirmation": back["confirmation"]}
    reader = new_partner(gateway, scope=["tokens:read"])

    said = [
        slug(acme.calls("POST", path, json=right | {"force": True})),
        slug(acme.calls("POST", path, json=right | {"answer": "perhaps"})),
        slug(acme.calls("POST", path, json={"confirmation": back["confirmation"]})),
        slug(acme.calls("POST", path, data=right)),
        slug(acme.calls("POST", path, json=right | {"answer": "both"})),
        slug(reader.calls("POST", path, json=right)),
        slug(acme.calls("POST", path, json=right, headers={"Authorization": f"Bearer {alice.token()}"})),
    ]

    assert [(400, "bad_request")] * 3 + [(415, "unsupported_media_type"), (400, "bad_request")] == said[:5]
    assert [(403, "forbidden")] * 2 == said[5:]
    assert 200 == acme.calls("POST", path, json=right).status_code


def test_ten_completions_at_once_save_one(gateway, acme, alice):
    """
    All get the same connection, which is saved and recorded once, and nothing is revoked.
    """
    link, back = waits(acme, alice)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(acme.completes(link["id"], alice, back["confirmation"])))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    ((row, _, generation),) = standing(gateway, alice)
    assert 10 * [(200, row)] == [(answer.status_code, answer.json().get("id")) for answer in answers]
    told_of = "select count(*) from gateway.event where connection_id = %s and type in ('connection.created', 'consent.given')"
    assert ([2], 1) == (rows(gateway.dsn, told_of, row), generation)
    assert [] == refused(gateway, link)
    assert [] == rows(gateway.dsn, "select 1 from gateway.revocation where connection_id = %s", row)


def test_an_existing_connection_stays_unchanged_meanwhile(gateway, acme, alice):
    """
    The same account completes onto the same row; the user's own pending grant stays.
    """
    alice.connects("ghl", BERLIN)
    before = standing(gateway, alice)
    question = alice.get(alice.consents("ghl", LISBON)).headers["Location"]

    stranger = alice.elsewhere()
    link = acme.makes(alice, "ghl")
    back = finishes(stranger, link)

    assert before == standing(gateway, alice)
    assert 200 == alice.get(question).status_code
    answer = acme.completes(link["id"], alice, back["confirmation"])
    assert (before[0][0], 200) == (answer.json()["id"], answer.status_code)
    assert [(before[0][0], BERLIN, 2)] == standing(gateway, alice)
    made = rows(gateway.dsn, "select made from gateway.consent where connection_id = %s", before[0][0])
    assert [False] == made


def test_over_another_account_the_partner_has_to_decide_and_asking_uses_nothing_up(gateway, acme, alice):
    """
    409 for every repeated call; then replaced under the same id, and partners of the previous account lose their
    access.
    """
    earlier = new_partner(gateway, "Borealis")
    alice.signs_in()
    row = told(alice.get(consents(alice, earlier.makes(alice, "ghl")["url"], LISBON)))["connection"]
    link, back = acme.makes(alice, "ghl"), None
    back = finishes(alice.elsewhere(), link, BERLIN)

    asked = [slug(acme.completes(link["id"], alice, back["confirmation"])) for _ in range(2)]
    stood = standing(gateway, alice)
    answer = acme.completes(link["id"], alice, back["confirmation"], answer="replace")

    assert [(409, "pending_confirmation")] * 2 == asked
    assert [(row, LISBON, 1)] == stood
    assert (200, row, BERLIN) == (answer.status_code, answer.json()["id"], answer.json()["account"]["id"])
    assert [200, 404] == [acme.token(row).status_code, earlier.token(row).status_code]


def test_after_a_no_the_grant_is_revoked_and_the_connection_unchanged(gateway, acme, alice):
    """
    The partner reports that its user does not want the connection.
    """
    alice.connects("ghl", LISBON)
    stood = standing(gateway, alice)
    link = acme.makes(alice, "ghl")
    back = finishes(alice.elsewhere(), link, BERLIN)

    answer = acme.completes(link["id"], alice, back["confirmation"], answer="no")

    assert (400, "access_denied") == slug(answer)
    assert stood == standing(gateway, alice)
    assert [("access_denied", acme.id)] == refused(gateway, link)
    assert [] == pending_grants(gateway, link)


def test_without_a_completion_for_ten_minutes_it_is_revoked(gateway, acme, alice):
    """
    No completion serves any more, and housekeeping puts the grant in the queue of revocations.
    """
    link, back = waits(acme, alice)
    (waiting,) = pending_grants(gateway, link)
    rows(gateway.dsn, "update gateway.pending_grant set pending_until = now() where id = %s", waiting)

    assert (400, "state_invalid") == slug(acme.completes(link["id"], alice, back["confirmation"]))
    assert 404 == acme.token(waiting).status_code
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(30)")
    assert [("expired", acme.id)] == refused(gateway, link)
    assert 0 == owned(gateway, alice)


@pytest.mark.parametrize("query", ["", "?uninstall=0", "?uninstall=1"])
def test_its_partner_may_disconnect_it_while_it_waits(gateway, acme, alice, query):
    """
    Like a connection: erased, revoked, and the id is unknown afterwards. The app stays installed, because the account
    is not confirmed.
    """
    link, back = waits(acme, alice)
    (waiting,) = pending_grants(gateway, link)

    receipt = acme.calls("DELETE", f"/v1/connections/{waiting}{query}")

    assert (200, waiting) == (receipt.status_code, receipt.json()["connection_id"])
    nobody = {"id": "", "label": "", "kind": None}
    assert (nobody, None) == (receipt.json()["account"], receipt.json().get("uninstall"))
    assert 404 == acme.calls("GET", f"/v1/connections/{waiting}").status_code
    assert (400, "state_invalid") == slug(acme.completes(link["id"], alice, back["confirmation"]))


def test_a_banned_user_is_not_completed_for(gateway, acme, alice):
    """
    Between the browser's way back and the call.
    """
    link, back = waits(acme, alice)
    rows(gateway.dsn, "update auth.users set banned_until = 'infinity' where id = %s", alice.id)

    assert (403, "user_mismatch") == slug(acme.completes(link["id"], alice, back["confirmation"]))
    assert 0 == owned(gateway, alice)


def test_no_secret_of_a_link_reaches_the_log_or_the_database(gateway, acme, alice):
    """
    Neither the link's nor the confirmation.
    """
    link, back = waits(acme, alice)
    log, secret = gateway.log.read_text(), link["url"].rpartition("/")[2]
    kept = rows(
        gateway.dsn,
        "select to_jsonb(p)::text from gateway.pending_grant p union all select to_jsonb(e)::text from gateway.event e",
    )

    for hidden in (secret, back["confirmation"], acme.key):
        assert hidden not in log
        assert not any(hidden in row for row in kept)


def test_where_many_are_allowed_both_are_kept(cluster, template):
    """
    A second account completes beside the first, where the catalogue allows many.
    """
    with whole_gateway(cluster, template) as gateway:
        Path(gateway.environ["GATEWAY_CATALOG"], "zz_many.toml").write_text(
            '[ghl]\naccounts = "many"\n', encoding="utf-8"
        )
        gateway.start()
        acme, alice = new_partner(gateway), gateway.person("Alice Winter")
        alice.connects("ghl", BERLIN)
        link = acme.makes(alice, "ghl")
        back = finishes(alice.elsewhere(), link, LISBON)
        assert (409, "pending_confirmation") == slug(acme.completes(link["id"], alice, back["confirmation"]))

        both = acme.completes(link["id"], alice, back["confirmation"], answer="both")

        assert 200 == both.status_code
        assert [BERLIN, LISBON] == [account for _, account, _ in standing(gateway, alice)]
