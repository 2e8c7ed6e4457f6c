"""
HighLevel's own SDKs as clients, with the session storages that docs/highlevel.md shows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.sandbox.highlevel_webhooks import PUBLIC_KEY, event, signature
from tests.support.partners import partner_of

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "tests" / "node"
BERLIN, LISBON, AGENCY = "NorthwindBerlin00001", "NorthwindLisbon00001", "NorthwindAgency00001"
PYTHON = """
import asyncio, sys
from highlevel import HighLevel
HighLevel.BASE_URL = sys.argv[1]
{documented}
async def main():
    for location in sys.argv[2:]:
        found = await highlevel.locations.get_location(location)
        found = found if isinstance(found, dict) else found.model_dump()
        print(found["location"]["name"])
asyncio.run(main())
"""


def documented(language, heading="HighLevel's SDKs"):
    section = (ROOT / "docs" / "highlevel.md").read_text(encoding="utf-8").split(f"\n## {heading}")[1]
    return re.search(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]


def node(folder, program, api, *locations):
    module = NODE / f"documented_storage_{os.getpid()}.mjs"
    module.write_text(program or documented("js"))
    return ["node", "--no-warnings", "highlevel_sdk.mjs", str(module), api, *locations], module


def python(folder, program, api, *locations):
    module = folder / "client.py"
    module.write_text(PYTHON.replace("{documented}", program or documented("python")))
    return [sys.executable, str(module), api, *locations], module


def run_sdk(language, folder, environ, api, *locations, program=None):
    """Print the names of locations with the SDK, made by the documented program or by another."""
    command, module = language(folder, program, api, *locations)
    environ = {"PATH": os.environ["PATH"], **environ}
    try:
        return subprocess.run(command, cwd=NODE, env=environ, capture_output=True, text=True, timeout=60, check=False)
    finally:
        module.unlink()


def needs_sdk(language):
    if language is node and not (os.environ.get("CI") or (NODE / "node_modules" / "@gohighlevel").exists()):
        pytest.skip("npm ci in tests/node installs the SDK")


@pytest.mark.parametrize("language", [node, python])
def test_the_official_sdk_calls_highlevel_with_the_gateways_tokens(gateway, alice, tmp_path, language):
    """
    A sub-account that is connected, and one that only the agency's connection reaches; neither SDK has a client secret.
    """
    needs_sdk(language)
    partner, bob = partner_of(gateway.dsn, reach="own"), gateway.person("Bob Marsh")
    location, agency = (
        person.connects("ghl", account)["connection"] for person, account in ((alice, BERLIN), (bob, AGENCY))
    )
    for connection in (location, agency):  # the SDK asks by account, and others may have connected it
        partner.consented(gateway.dsn, connection)
    environ = {"GATEWAY": gateway.url, "KEY": partner.key, "AGENCY": agency}
    ended = run_sdk(language, tmp_path, environ, f"{gateway.sandbox.origin}/ghl", BERLIN, LISBON)

    assert ended.stdout.splitlines()[-2:] == ["Northwind Berlin", "Northwind Lisbon"], ended.stderr + ended.stdout
    assert partner.key not in ended.stdout


THROUGH_THE_PROXY = {
    node: 'import { HighLevel } from "@gohighlevel/api-client";\n'
    "export const highlevel = new HighLevel({ privateIntegrationToken: process.env.KEY });\n",
    python: "import os\nhighlevel = HighLevel(private_integration_token=os.environ['KEY'])\n",
}


@pytest.mark.parametrize("language", [node, python])
def test_the_official_sdk_works_through_the_proxy_with_another_address_and_key(gateway, alice, tmp_path, language):
    """
    The SDK knows the proxy's address in place of HighLevel's and the partner's key in place of a token.
    """
    needs_sdk(language)
    partner = partner_of(gateway.dsn, scope=("proxy",))
    proxy = f"{gateway.url}/v1/connections/{alice.connects('ghl', BERLIN)['connection']}/proxy"

    ended = run_sdk(language, tmp_path, {"KEY": partner.key}, proxy, BERLIN, program=THROUGH_THE_PROXY[language])

    assert ended.stdout.splitlines()[-1:] == ["Northwind Berlin"], ended.stderr + ended.stdout


def test_the_documented_walk_reads_every_location_of_an_agency_with_progress(gateway, alice):
    """
    A location that is paused is named with its status, and the walk goes on.
    """
    state, partner = gateway.sandbox.state, partner_of(gateway.dsn)
    agency = alice.connects("ghl", AGENCY)["connection"]
    environ = {"GATEWAY": gateway.url, "KEY": partner.key, "AGENCY": agency}
    state.more_locations, state.suspended = 3, {LISBON}
    try:
        program = [sys.executable, "-c", documented("python", "Agencies and their locations")]
        ended = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=60, check=False)
    finally:
        state.more_locations, state.suspended = 0, set()

    lines = ended.stdout.splitlines()
    assert [f"{BERLIN} Northwind Berlin", f"{LISBON} 409"] == lines[:2], ended.stderr
    assert ["NorthwindMore0000002 Northwind branch 2", "5 locations; next page: None"] == lines[-2:]


def test_the_official_sdks_signature_check_accepts_what_the_sandbox_signs(gateway):
    """
    So the sandbox's webhooks are HighLevel's.
    """
    from highlevel import Logger, WebhookManager  # three seconds of CPU, which only this test spends

    body = event(gateway.sandbox.state, "INSTALL", locationId=BERLIN, note="Zoë")
    check = WebhookManager(Logger("warn"), None, None).verify_ed25519_signature

    assert check(body.decode(), signature(body), PUBLIC_KEY)
    assert not check(body.decode() + " ", signature(body), PUBLIC_KEY)
