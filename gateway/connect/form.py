"""
What a user enters on the connect page: read, and refused field by field where it cannot be right.

Nothing is corrected silently: a key with something pasted around it works nowhere, and its user has to see why. Only of an address that is
pasted whole, the part that is asked for is taken.
"""

import re
from collections.abc import Mapping
from typing import Literal

from gateway.catalog import AnyEntry
from gateway.catalog.provider import FormField

Fault = Literal[
    "missing", "spaces", "quotes", "prefix", "address", "shortened", "characters", "swapped", "test_mode", "form",
    "refused", "refused_pair", "unknown_account",
]  # fmt: skip
"""A text of the pages in `field`. The last three come from the provider."""

LONGEST = 2000
_ADDRESS = re.compile(r"\s*https?://([a-z0-9.-]+)(?:[:/?#]\S*)?\s*", re.IGNORECASE)
_QUOTES = "\"'`´‘’‚“”„«»‹›<>"
_PREFIX = re.compile(
    r"[a-z-]{3,20}\s+\S{8,}|(bearer|basic|token)\s.+|[^:=]{0,40}(authorization|key|token|sid|secret)[\"']?\s*[:=]\s*.{8,}",
    re.IGNORECASE,
)
"""A scheme, or the name of a header or variable, before the value."""
_SHORTENED = re.compile(r"[*•●]{4}|…|\.\.\.$")


class FieldsRefused(Exception):
    """Nothing was stored. `faults`: by the name of the field."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        super().__init__(", ".join(f"{name}: {fault}" for name, fault in faults.items()))
        self.faults = faults


def read_form(provider: AnyEntry, entered: Mapping[str, str]) -> dict[str, str]:
    """The values of the provider's fields. Raises FieldsRefused."""
    values = {name: _entered(provider, name, entered.get(name, "")) for name in provider.fields}
    faults: dict[str, Fault] = {}
    for name, field in provider.fields.items():
        fault = _fault(field, values[name])
        if fault in ("form", "test_mode") and _is_swapped(provider, name, values):
            fault = "swapped"
        faults |= {name: fault} if fault else {}
    if faults:
        raise FieldsRefused(faults)
    return values


def _entered(provider: AnyEntry, name: str, value: str) -> str:
    """A value; of a whole address, pasted into the field of a part of it, that part."""
    pasted, field = _ADDRESS.fullmatch(value), provider.fields[name]
    if pasted is None or field.secret:
        return value
    for template in (
        provider.userinfo_endpoint,
        provider.api_base_url,
        provider.authorization_endpoint,
        *provider.scope,
    ):
        _, place, after = (template or "").partition(f"{{{name}}}")
        after = re.sub(r"\\{\w+\\}", "[^/.]+", re.escape(re.split("[/?]", after)[0]))
        if place and (found := re.fullmatch(rf"(?:.+\.)?({field.pattern.pattern}){after}", pasted[1].lower())):
            return found[1]
    return value


def _fault(field: FormField, value: str) -> Fault | None:
    """What is wrong with a value; the first thing that its user can see."""
    quotes = (value[:1] in _QUOTES) + (value[-1:] in _QUOTES)  # a password may have one
    checks: tuple[tuple[Fault | None, object], ...] = (
        ("missing", not value.strip()),
        ("spaces", value != value.strip()),
        ("quotes", quotes > 1),
        ("prefix", field.secret and _PREFIX.fullmatch(value)),
        ("address", field.secret and _ADDRESS.fullmatch(value)),
        ("shortened", _SHORTENED.search(value)),
        ("test_mode", field.secret and field.test_pattern.fullmatch(value)),
        (None, len(value) <= LONGEST and field.matches(value)),
        ("quotes", quotes),
        ("spaces", any(letter.isspace() for letter in value)),
        ("characters", not value.isascii() or not value.isprintable()),
        ("form", True),
    )
    return next(fault for fault, found in checks if found)


def _is_swapped(provider: AnyEntry, name: str, values: Mapping[str, str]) -> bool:
    """Whether the value of one field has not its form but that of another, and that one's has the form of this."""
    field = provider.fields[name]
    return (
        not field.matches(values[name])
        and not _ADDRESS.fullmatch(values[name])
        and any(
            other.matches(values[name]) and field.matches(values[each])
            for each, other in provider.fields.items()
            if each != name
        )
    )
