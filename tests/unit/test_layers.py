"""The five layers: a module imports only from layers below its own; folders of one layer do not import one another, except where ALLOWED."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway

ROOT = Path(gateway.__file__).parent
LAYERS = (
    ("errors", "models", "brand", "texts", "log_setup", "database_url", "settings"),
    ("catalog", "crypto", "http", "protocol", "database", "identity"),
    ("services", "account", "connect", "tokens", "connections", "partners", "events", "webhooks", "proxy"),
    ("worker", "server", "doctor", "embedded"),
    ("web", "cli"),
)
ALLOWED = {
    "log_setup": {"errors"},
    "models": {"errors"},
    "settings": {"errors", "models", "brand", "texts", "database_url"},
    "database": {"http"},
    "protocol": {"catalog", "http"},
    "identity": {"protocol"},
    "account": {"services"},
    "connections": {"services", "account", "tokens", "events"},
    "connect": {"services", "account", "connections"},
    "services": {"tokens"},  # the response journal is opened once per process
    "tokens": {"services", "account"},
    "partners": {"services"},
    "events": {"services"},
    "webhooks": {"services"},
    "proxy": {"services", "tokens"},
    "server": {"worker"},
    "doctor": {"worker"},
}
"""Imports inside one layer. `services` is Runtime, which every service takes as its first argument."""
OF_ONE_FILE = {"tokens/refresh_request.py": {"connections"}}
"""A refresh revokes a grant that it cannot use; the rest of `connections` imports `tokens`."""
OUTSIDE = {"__init__", "__main__"}
"""`create_app` and `python -m gateway`."""


def imported_topics(source: str, package: tuple[str, ...] = ("gateway",)) -> set[str]:
    """The files and folders directly below gateway/ that `source` imports: late, relative and conditional imports too."""
    found = set()
    for name in _imported(source, package):
        parts = name.split(".")
        if parts[0] == "gateway":
            found.add(parts[1] if len(parts) > 1 else "__init__")
    return found


def _imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def topic(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def forbidden(name: str, imports: set[str]) -> set[str]:
    layer = next(number for number, names in enumerate(LAYERS) if name in names)
    below = {below for names in LAYERS[:layer] for below in names}
    return imports - below - ALLOWED.get(name, set()) - {name, "__version__", "create_app"}


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_layers_below_its_own(path):
    package = ("gateway", *path.relative_to(ROOT).parts[:-1])
    name, imports = topic(path), imported_topics(path.read_text(encoding="utf-8"), package)
    if name == "sandbox":
        assert imports <= {"sandbox"}, (
            "the sandbox shares nothing with the gateway, or a mistake could be on both sides"
        )
    elif name not in OUTSIDE:
        assert forbidden(name, imports) == OF_ONE_FILE.get(path.relative_to(ROOT).as_posix(), set())


def test_every_topic_has_a_layer():
    assert {topic(path) for path in MODULES} == {name for names in LAYERS for name in names} | OUTSIDE | {"sandbox"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("errors", "from gateway.models import User"),
        ("catalog", "import gateway.database.postgres"),
        ("crypto", "from gateway import http"),
        ("protocol", "def late():\n    from gateway.services import Runtime"),
        ("identity", "if TYPE_CHECKING:\n    from . import connect"),
        ("tokens", "from gateway.connections import revoke"),
        ("connect", "from gateway.sandbox import app"),
    ],
)
def test_every_kind_of_forbidden_import_is_found(name, source):
    assert forbidden(name, imported_topics(source)) != set()
