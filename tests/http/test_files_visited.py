"""
How many of our files a request visits: a newcomer who follows it has to open these, and no more.

The aim is 15 for a callback and 8 for a token read. The ceilings here are what is measured; they only ever go down.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import gateway as package
from gateway import create_app
from gateway.database import open_postgres
from tests.support.partners import partner

ROOT = Path(package.__file__).parent
EVERY_REQUEST = {"web/request_context.py", "web/security_headers.py", "web/operations.py", "log_setup.py"}
CALLBACK_FILES = 17
"""Of which four are the HTTP client: addresses, connections, the client, and the bulkhead that every wait on a provider passes."""
TOKEN_READ_FILES = 8
"""Of which one is the catalogue: the API's address and headers depend on the connection's account."""


@pytest.fixture
def app(gateway, tmp_path):
    """The application in this process, over the same database as the running one."""
    made = create_app(dict(gateway.environ) | {"GATEWAY_DATA": str(tmp_path)})
    yield made
    made.extensions["gateway"].database.close()
    made.extensions["gateway"].http.close()


def visited(app, address, **headers):
    """The response, and our files that were entered for it, in order, beside those that every request enters."""
    parts = urlsplit(address)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    files = {}

    def enter(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(ROOT)) and frame.f_code.co_name != "<module>":
            files.setdefault(Path(file).relative_to(ROOT).as_posix())

    client = app.test_client(use_cookies=False)
    sys.setprofile(enter)
    try:
        response = client.get(path, headers=headers)
    finally:
        sys.setprofile(None)
    assert set(files) >= EVERY_REQUEST
    return response, [file for file in files if file not in EVERY_REQUEST]


def test_a_callback_visits_few_files_from_the_code_to_the_saved_connection(gateway, app):
    """
    Of the authorization code: from the route to the encrypted row.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    assert "connection" in alice.connects("google")

    callback = alice.consents("google")
    cookies = "; ".join(f"{name}={value}" for name, value in alice.browser.cookies.items())
    response, files = visited(app, callback, Cookie=cookies, Host=urlsplit(gateway.url).netloc)

    assert (303, True) == (response.status_code, "connection=" in response.headers["Location"])
    assert len(files) <= CALLBACK_FILES, " ".join(files)


def test_a_token_read_visits_few_files_from_the_key_to_the_token(gateway, app):
    """
    Of a partner's key: from the route to the decrypted token.
    """
    alice = gateway.person("Alice Winter")
    connection = alice.connects("ghl")["connection"]
    store = open_postgres(gateway.dsn)
    acme = partner(store, scope=["tokens:read"], reach="all")
    store.close()
    address, key = f"/v1/connections/{connection}/token", {"Authorization": f"Bearer {acme.key}"}
    visited(app, address, **key)

    response, files = visited(app, address, **key)

    assert (200, True) == (response.status_code, "access_token" in response.json)
    assert len(files) <= TOKEN_READ_FILES, " ".join(files)
