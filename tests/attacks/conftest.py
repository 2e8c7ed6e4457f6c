"""
Alice and Bob in browsers of their own, signed in.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def alice(gateway):
    person = gateway.person("Alice Winter")
    person.signs_in()
    return person


@pytest.fixture
def bob(gateway):
    person = gateway.person("Bob Marsh")
    person.signs_in()
    return person
