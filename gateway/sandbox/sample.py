"""Text of the form that a regular expression describes, for made-up keys and addresses."""

from __future__ import annotations

import random
import re._parser as parser  # type: ignore[import-not-found]
from typing import Any

_MORE = 8
"""How often a part without an end is repeated beyond its least."""
_PRINTABLE = [chr(number) for number in range(0x21, 0x7F)]


def sample(pattern: str, source: random.Random) -> str:
    """A text that matches `pattern` as a whole."""
    return _text(parser.parse(pattern), source)


def _text(tokens: Any, source: random.Random) -> str:
    return "".join(_part(str(name), value, source) for name, value in tokens)


def _part(name: str, value: Any, source: random.Random) -> str:  # noqa: PLR0911 - one for each kind
    match name:
        case "LITERAL":
            return chr(value)
        case "ANY":
            return source.choice(_PRINTABLE)
        case "IN":
            return source.choice([letter for letter in _PRINTABLE if _is_in(value, ord(letter))])
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, inner = value
            return "".join(_text(inner, source) for _ in range(source.randint(least, min(most, least + _MORE))))
        case "SUBPATTERN":
            return _text(value[3], source)
        case "BRANCH":
            return _text(source.choice(value[1]), source)
        case "AT":
            return ""
        case _:
            raise ValueError(f"{name} cannot be made up")


def _is_in(members: Any, letter: int) -> bool:
    for name, value in members:
        within = value == letter if str(name) == "LITERAL" else str(name) == "RANGE" and value[0] <= letter <= value[1]
        if within:
            return True
    return False
