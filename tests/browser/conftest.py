"""
Chromium, and Alice of the product.
"""

from __future__ import annotations

import pytest

from tests.support.browser import chromium, new_alice


@pytest.fixture(scope="package")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def alice(gateway, monkeypatch):
    return new_alice(gateway, monkeypatch)
