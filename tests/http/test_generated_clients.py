"""
Clients generated from /openapi.json, by the two usual generators, against the running gateway: a list, a token, and a 404.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from tests.support.link_partner import new_partner

NODE = Path(__file__).resolve().parents[1] / "node" / "node_modules"
HAS_NODE = shutil.which("node") and (NODE / "openapi-typescript").exists()
TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

declare const process: { env: Record<string, string> };
const client = createClient<paths>({
  baseUrl: process.env.GATEWAY,
  headers: { Authorization: `Bearer ${process.env.KEY}` },
});
const { data: page } = await client.GET("/v1/connections", { params: { query: { provider: "google", limit: 100 } } });
const found: components["schemas"]["Connection"][] = page!.items.filter((each) => each.id === process.env.CONNECTION);
const token = await client.GET("/v1/connections/{connection_id}/token", {
  params: { path: { connection_id: found[0].id }, query: { min_seconds: 60 } },
});
const missing = await client.GET("/v1/connections/{connection_id}", {
  params: { path: { connection_id: process.env.UNKNOWN } },
});
const problem: components["schemas"]["Problem"] = missing.error!;
console.log(JSON.stringify([found.length === 1, token.data!.access_token, missing.response.status, problem.code, problem.remedy]));
"""


@pytest.fixture
def asked(gateway, tmp_path):
    """A key, a connection, the token that the plain API returns for it, and the description in a file."""
    (tmp_path / "openapi.json").write_bytes(requests.get(f"{gateway.url}/openapi.json", timeout=30).content)
    partner, connection = (
        new_partner(gateway, reach="all"),
        gateway.person("Alice Winter").connects("google")["connection"],
    )
    return SimpleNamespace(
        key=partner.key,
        connection=connection,
        token=partner.token(connection).json()["access_token"],
        unknown=str(uuid.uuid4()),
    )


def test_a_generated_python_client_works_errors_included(gateway, asked, tmp_path, monkeypatch):
    """
    Without a warning of the generator: no call and no response is left out.
    """
    command = [
        "generate",
        "--path",
        tmp_path / "openapi.json",
        "--output-path",
        tmp_path / "generated",
        "--meta",
        "none",
    ]
    assert "arning" not in run(tmp_path, sys.executable, "-m", "openapi_python_client", *command)

    monkeypatch.syspath_prepend(tmp_path)
    client_of = importlib.import_module("generated").AuthenticatedClient
    calls = ("connections.list_connections", "connections.get_connection", "tokens.get_token")
    listing, single, reading = (importlib.import_module(f"generated.api.{name}") for name in calls)
    with client_of(base_url=gateway.url, token=asked.key) as client:
        page = listing.sync(client=client, provider="google", limit=100)
        token = reading.sync(uuid.UUID(asked.connection), client=client, min_seconds=60)
        missing = single.sync_detailed(uuid.UUID(asked.unknown), client=client)

    assert asked.connection in [str(each.id) for each in page.items]
    assert asked.token == token.access_token
    assert (404, "not_found", "fix_request") == (missing.status_code, missing.parsed.code, missing.parsed.remedy)


@pytest.mark.skipif(not os.environ.get("CI") and not HAS_NODE, reason="needs node and `npm ci` in tests/node")
def test_a_generated_typescript_client_works_errors_included(gateway, asked, tmp_path):
    """
    Its types are checked in strict mode.
    """
    (tmp_path / "node_modules").symlink_to(NODE)
    (tmp_path / "client.ts").write_text(TYPESCRIPT)
    strict = [
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        "--target",
        "es2022",
    ]
    bundled = ["--bundle", "--format=esm", "--platform=node", "--outfile=client.mjs", "--log-level=warning"]

    run(tmp_path, "node", NODE / "openapi-typescript" / "bin" / "cli.js", "openapi.json", "-o", "schema.d.ts")
    assert "" == run(tmp_path, "node", NODE / "typescript" / "bin" / "tsc", *strict, "client.ts")
    assert "" == run(tmp_path, NODE / "esbuild" / "bin" / "esbuild", *bundled, "client.ts")
    environ = {"GATEWAY": gateway.url, "KEY": asked.key, "CONNECTION": asked.connection, "UNKNOWN": asked.unknown}
    told = json.loads(run(tmp_path, "node", "client.mjs", **environ))

    assert [True, asked.token, 404, "not_found", "fix_request"] == told


def run(folder, *command, **environ):
    """What a command prints; it has to succeed."""
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
