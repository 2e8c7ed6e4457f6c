"""
What schema.sql sets up, read from its own text: policies, triggers, functions.

So each fact stands once, and a database is compared with the very file that this gateway came with. Postgres hands expressions
back in its own spelling; both sides are brought to one in which only words and operators count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from gateway.database.migrate import script

OWNERS_POLICY = "The gateway and the owner's server"
"""Made where a role that has to reach every row may not bypass row-level security."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A row-level policy; expressions as `plain` writes them, "" for none."""

    table: str
    name: str
    restrictive: bool
    verb: str
    roles: tuple[str, ...]
    using: str
    check: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger: what calls which function, and the columns whose change does."""

    table: str
    name: str
    timing: str
    function: str
    columns: tuple[str, ...]


def plain(expression: str | None) -> str:
    """An expression without what Postgres adds or leaves out when it prints one: spaces, brackets, casts, aliases."""
    text = re.sub(r"\s+|[()]", "", (expression or "").lower())
    return text.replace("::name", "").replace("::text", "").replace("asuid", "")


@cache
def policies() -> tuple[Policy, ...]:
    """Every policy for clients."""
    return tuple(
        Policy(
            table=found["table"],
            name=found["name"].replace("''", "'"),
            restrictive=bool(found["restrictive"]),
            verb=found["verb"],
            roles=(found["role"],),
            using=plain(found["using"]),
            check=plain(found["check"]),
        )
        for found in _POLICY.finditer(_text())
    )


@cache
def triggers() -> tuple[Trigger, ...]:
    """Every trigger."""
    return tuple(trigger(found[0]) for found in _TRIGGER.finditer(_text()))


def trigger(definition: str) -> Trigger:
    """The trigger in a `create trigger` statement: of schema.sql, or as Postgres prints it."""
    found = _TRIGGER.search(definition)
    if found is None:
        return Trigger("", "", "", "", ())
    columns = tuple(sorted(set(re.findall(r"\bold\.([a-z_]+)", (found["when"] or "").lower()))))
    return Trigger(found["table"], found["name"], found["timing"].lower(), found["function"], columns)


@cache
def functions() -> dict[str, frozenset[str]]:
    """The bodies of each function of ours by its qualified name; those that are made to fit the database are left out."""
    bodies: dict[str, set[str]] = {}
    for found in _FUNCTION.finditer(_text()):
        bodies.setdefault(found["name"], set()).add(body(found["body"]))
    return {name: frozenset(found) for name, found in bodies.items()}


def body(source: str) -> str:
    """A function's body without comments, and without the differences that pasting it into an editor makes."""
    lines = (line.rstrip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("--"))


def _text() -> str:
    return re.sub(r"^ *--.*$", "", script(), flags=re.MULTILINE)


_POLICY = re.compile(
    r'^create policy "(?P<name>[^"]+)" on (?P<table>[a-z._]+)(?P<restrictive> as restrictive)?\s+'
    r"for (?P<verb>[a-z]+) to (?P<role>[a-z_]+)(?:\s+using \((?P<using>(?:(?!with check).)*?)\))?"
    r"(?:\s+with check \((?P<check>.*?)\))?;$",
    re.MULTILINE | re.DOTALL,
)
_TRIGGER = re.compile(
    r"create (?:or replace )?trigger (?P<name>[a-z_]+) (?P<timing>before [a-z]+|after [a-z]+) on (?P<table>[a-z._]+)\s+"
    r"for each (?:row|statement)\s+(?:when (?P<when>.*?)\s+)??execute function (?P<function>[a-z._]+)\(\)",
    re.IGNORECASE | re.DOTALL,
)
_FUNCTION = re.compile(
    r"^create or replace function (?P<name>(?:public|gateway)\.[a-z0-9_]+)\((?:(?!create or replace).)*?\bas \$\$(?P<body>.*?)\$\$;?$",
    re.MULTILINE | re.DOTALL,
)
