"""
Alice and Bob in browsers of their own, a partner, and a sandbox without a gateway.
"""

from __future__ import annotations

import pytest

from gateway.sandbox import SandboxServer, make_server
from tests.support.database import rows
from tests.support.link_partner import new_partner
from tests.support.oauth_client import Clock, Walker


@pytest.fixture(autouse=True)
def no_incident(request):
    """What a provider refused in other tests is no incident: refusals are counted since the last one ended."""
    if "gateway" in request.fixturenames:
        rows(request.getfixturevalue("gateway").dsn, _NO_INCIDENT)


_NO_INCIDENT = """
    insert into gateway.provider_incident (provider, began_at, ended_at)
    select distinct provider, now(), now() from gateway.event where provider is not null
    on conflict (provider) do update set ended_at = excluded.ended_at
"""


@pytest.fixture
def alice(gateway):
    return gateway.person("Alice Winter")


@pytest.fixture
def bob(gateway):
    return gateway.person("Bob Marsh")


@pytest.fixture(scope="module")
def acme(gateway):
    return new_partner(gateway)


@pytest.fixture(scope="module")
def running():
    with make_server(clock=Clock()) as server:
        yield server


@pytest.fixture
def sandbox(running: SandboxServer):
    running.state.reset()
    return running


@pytest.fixture
def walk(sandbox):
    return lambda provider: Walker(sandbox, provider)
