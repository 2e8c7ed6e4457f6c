"""The staircase: a room imports only rooms on a line above its own, and rooms of one line do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway

STAIRCASE = """
errors models logs marks
config quirks
catalog
vault outbound store
oauth journal flights
issuers
identity
runtime
account revocation presence partners ledger
renewal
grants refresh
leave check
connect confirm adopt
links
worker doctor
web serving
terminal
demo sealing rotation working erasing
commands
cli
"""
LINE = {room: number for number, line in enumerate(STAIRCASE.split("\n")) for room in line.split()}
HOUSE = Path(gateway.__file__).parent
OUTSIDE = {"__init__", "__main__"}
"""They assemble: `create_app` and `python -m gateway`."""
BESIDES = {"runtime": {"__version__"}, "web": {"__version__"}, "serving": {"create_app"}}
"""From the package itself: who we are on the wire, and what a server process serves."""


def imported(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Every module under gateway that `source` imports, wherever in it, relative imports included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_of(source: str, package: tuple[str, ...] = ("gateway",)) -> set[str]:
    """The rooms among them; a bare `gateway` or an attribute of it is the room of that name."""
    found = [name.split(".") for name in imported(source, package)]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in found if parts[0] == "gateway"}


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def package(path: Path) -> tuple[str, ...]:
    return ("gateway", *path.relative_to(HOUSE).parts[:-1])


def missteps(name: str, known: set[str]) -> set[str]:
    """The rooms that the room `name` may not know, of those that it does."""
    allowed = {above for above, line in LINE.items() if line < LINE[name]} | {name}
    return known - allowed - BESIDES.get(name, set())


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_room_imports_only_rooms_above_it(path):
    """
    No circles, and a reader who starts at the top never meets what was not explained yet.
    """
    name, known = room(path), rooms_of(path.read_text(encoding="utf-8"), package(path))
    if name == "sandbox":
        assert known <= {"sandbox"}, "the sandbox plays the other side: a mistake shared with it would not be found"
    elif name in OUTSIDE:
        assert "sandbox" not in known
    else:
        assert name in LINE, f"{name} has no line on the staircase"
        assert set() == missteps(name, known)


def test_every_room_of_the_staircase_is_there():
    """
    The drawing and the house are the same.
    """
    assert set(LINE) | OUTSIDE | {"sandbox"} == {room(path) for path in modules()}


def test_the_drawing_in_the_documentation_is_this_staircase():
    """
    Line by line, so that neither can change alone.
    """
    drawing = (
        (HOUSE.parent / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1].strip().splitlines()
    )
    lines = STAIRCASE.strip().splitlines()

    assert len(lines) == len(drawing)
    for line, drawn in zip(lines, drawing, strict=True):
        assert set(line.split()) <= set(drawn.split()), drawn


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("errors", "from gateway.models import User"),
        ("catalog", "import gateway.store.postgres"),
        ("vault", "from gateway import outbound"),
        ("oauth", "def late():\n    from gateway.runtime import Runtime"),
        ("identity", "if TYPE_CHECKING:\n    from . import connect"),
        ("connect", "from gateway.sandbox import app"),
        ("web", "from gateway import create_app"),
        ("store", "import gateway"),
    ],
)
def test_the_reader_of_imports_sees_every_kind_of_step_down(name, source):
    """
    Late, relative, conditional and dotted imports are imports.
    """
    assert missteps(name, rooms_of(source))


def test_the_reader_of_imports_lets_steps_up_pass():
    """
    And what is not ours is none of its business.
    """
    assert not missteps(
        "runtime", rooms_of("import json\nfrom gateway import __version__, oauth\nfrom gateway.store import Store")
    )
    assert not missteps(
        "web",
        rooms_of("from . import pages\nfrom .session import runtime\nfrom ..connect import begin", ("gateway", "web")),
    )
