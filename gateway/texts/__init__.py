"""
The texts of the pages, a TOML file per language. An operator's files replace single texts, or add a language.

A text is plain: HTML in it is shown as it is written. `{words}` in braces are filled in, and nothing else is read from them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Any

DEFAULT = "en"
_OURS = Path(__file__).parent
CATALOG = "catalog."

Texts = Mapping[str, Mapping[str, str]]
"""By language tag, `en`, `de` …: every text by its dotted key; and below `catalog.`, translations of what the catalogue says in English."""


def read_texts(folder: Path | None = None) -> Texts:
    """Our texts, changed by the operator's files in `folder`. Raises ValueError with every problem in them."""
    texts = {path.stem: _flattened(path) for path in sorted(_OURS.glob("*.toml"))}
    if folder is None:
        return texts
    if not folder.is_dir():
        raise ValueError("is not a folder: name the one that holds files like de.toml.")
    problems: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            changed = _flattened(path)
        except ValueError as error:
            problems.append(f"{path.name} {error}")
            continue
        complete = {**texts.get(path.stem, {}), **changed}
        problems += (f"{path.name}: {problem}" for problem in wrong_texts(complete, texts[DEFAULT]))
        texts[path.stem] = complete
    if problems:
        raise ValueError("holds texts that cannot be used: " + "; ".join(problems) + ".")
    return texts


def wrong_texts(texts: Mapping[str, str], english: Mapping[str, str]) -> list[str]:
    """What does not fit the English texts: keys that do not exist or are missing, and placeholders that the text does not get."""
    problems = []
    texts, english = (
        {key: text for key, text in each.items() if not key.startswith(CATALOG)} for each in (texts, english)
    )
    for key, text in texts.items():
        if key not in english:
            near = get_close_matches(key, english, n=1)
            problems.append(f"{key} is not a text" + (f" (did you mean {near[0]}?)" if near else ""))
        elif (named := placeholders(text)) is None:
            problems.append(f"{key} has a broken placeholder: write a name in braces, and other braces twice")
        elif unknown := named - (placeholders(english[key]) or set()):
            known = ", ".join(f"{{{name}}}" for name in sorted(placeholders(english[key]) or set())) or "none"
            problems.append(f"{key} has the unknown placeholder {{{min(unknown)}}}; it may use {known}")
    missing = [key for key in english if key not in texts]
    if missing:
        problems.append(f"a new language needs every text, and {len(missing)} are missing, the first is {missing[0]}")
    return problems


def placeholders(text: str) -> set[str] | None:
    """The names in braces; None where the braces hold more than a name: an index, an attribute or a format."""
    try:
        fields = [(name, form, conversion) for _, name, form, conversion in Formatter().parse(text) if name is not None]
    except ValueError:
        return None
    is_plain = all(name.isidentifier() and not form and not conversion for name, form, conversion in fields)
    return {name for name, _, _ in fields} if is_plain else None


def _flattened(path: Path) -> dict[str, str]:
    """The texts by dotted key. Raises ValueError."""
    try:
        return dict(_flat("", tomllib.loads(path.read_text(encoding="utf-8"))))
    except OSError:
        raise ValueError("cannot be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"is not TOML in UTF-8: {error}") from None


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        elif isinstance(value, str) and value.strip():
            yield f"{prefix}{name}", value
        else:
            raise ValueError(f"needs a text in quotes for {prefix}{name}")
