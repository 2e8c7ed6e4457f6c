"""
Each SQL function is declared in `gateway/database/queries`, and every call passes the arguments that it has.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

GATEWAY = Path(__file__).resolve().parents[2] / "gateway"
QUERIES, SQL = GATEWAY / "database" / "queries", GATEWAY / "database" / "sql" / "functions"
FUNCTION = re.compile(r"create or replace function public\.gateway_(\w+)_v1\((.*?)\)\s*returns", re.DOTALL)
CALLED_BY_NAME = {"schema"}


def in_sql():
    """For each public function: its arguments, and those without a default."""
    found = {}
    for path in sorted(SQL.glob("*.sql")):
        for name, arguments in FUNCTION.findall(path.read_text(encoding="utf-8")):
            each = [part.split() for part in arguments.split(",") if part.strip()]
            names = {words[0].removeprefix("p_") for words in each}
            found[name] = names, {words[0].removeprefix("p_") for words in each if "default" not in words}
    return found


def declared():
    """By module and name: the SQL function, its arguments by position, and those that are always passed."""
    found = {}
    for path in sorted(QUERIES.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and "SqlFunction[" in ast.unparse(node.value):
                name, *positional = (argument.value for argument in node.value.args)
                always = {each.arg for each in node.value.keywords}
                found[path.stem, node.targets[0].id] = name, positional, always
    return found


def calls(path):
    """Each call of a declared function in a file, as (module, name) and the call; a `partial` is one."""
    tree, names = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway.database.queries"):
            module = (node.module or "").removeprefix("gateway.database.queries").removeprefix(".")
            for alias in node.names:
                names[alias.asname or alias.name] = (module, alias.name) if module else alias.name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        is_partial = isinstance(node.func, ast.Name) and node.func.id == "partial" and node.args
        called, passed = (node.args[0], node.args[2:]) if is_partial else (node.func, node.args[1:])
        if isinstance(called, ast.Name):
            yield names.get(called.id), node, passed, bool(is_partial)
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            yield (names.get(called.value.id), called.attr), node, passed, bool(is_partial)


def test_every_public_function_is_declared_with_arguments_that_it_has():
    functions = in_sql()
    for name, positional, always in declared().values():
        assert {*positional, *always} <= functions[name][0], name
    assert {name for name, *_ in declared().values()} | CALLED_BY_NAME == set(functions)


def test_every_call_passes_the_arguments_of_its_function():
    functions, declarations, seen = in_sql(), declared(), 0
    for path in sorted(GATEWAY.rglob("*.py")):
        for key, node, passed, is_partial in calls(path):
            if key not in declarations:
                continue
            seen += 1
            name, positional, always = declarations[key]
            known, required = functions[name]
            named = {each.arg for each in node.keywords}
            given = {*positional[: len(passed)], *always, *named} - {None}
            assert len(passed) <= len(positional), (path, node.lineno)
            assert given <= known, (path, node.lineno, given - known)
            if not is_partial and None not in named:
                assert required <= given, (path, node.lineno, required - given)
    assert seen > 60
