"""
Alice and Bob in browsers of their own, a partner, and a sandbox without a gateway.
"""

from __future__ import annotations

import pytest

from gateway.sandbox import SandboxServer, make_server
from tests.support.link_partner import new_partner
from tests.support.oauth_client import Clock, Walker


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
