"""
Alice and Bob, signed in through the store.
"""

from __future__ import annotations

import pytest

from tests.support.database import Person


@pytest.fixture
def alice(store) -> Person:
    person = Person("alice")
    person.signs_in(store)
    return person


@pytest.fixture
def bob(store) -> Person:
    person = Person("bob")
    person.signs_in(store)
    return person
