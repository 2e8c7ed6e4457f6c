"""
What every gateway and every sandbox repeats when it starts, done once in a process. The tests start two hundred of them.

Werkzeug compiles two functions for each route, which build its URLs: they are compiled when they are first used, which most never are. The
TOML files of the catalogue and of the texts are parsed once; each caller gets a copy.
"""

from __future__ import annotations

import pickle
import tomllib
from collections.abc import Callable
from functools import cache
from typing import Any

from werkzeug.routing.rules import Rule

from gateway.catalog import load_catalog
from gateway.texts import read_texts

_compile = Rule._compile_builder
_parse = tomllib.loads


def _compile_when_used(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
    compiled = cache(lambda: _compile(rule, append_unknown))

    def build(self: Rule, **values: Any) -> tuple[str, str]:
        return compiled()(self, **values)

    return build


@cache
def _parsed(text: str) -> bytes:
    return pickle.dumps(_parse(text))


def _loads(text: str, /, **options: Any) -> dict[str, Any]:
    return _parse(text, **options) if options else pickle.loads(_parsed(text))  # noqa: S301 - our own


Rule._compile_builder = _compile_when_used  # type: ignore[method-assign]
tomllib.loads = _loads
load_catalog()
read_texts()
