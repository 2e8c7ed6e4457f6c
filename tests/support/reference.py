"""
The tables of docs/reference.md: settings, commands and problems, as the code has them.

`python -m tests.support.reference` writes them; a test compares them.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.errors import SettingsRefused, every_problem
from gateway.settings import MEANINGS, SECRETS, Settings, setting_name

FILE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


def reference(commands: click.Group) -> str:
    """The file with its three tables as the code has them; the text around them is edited there."""
    kinds = sorted(set(every_problem()) - {SettingsRefused}, key=lambda kind: kind.slug)
    problems = [(f"`{kind.slug}`", str(kind.status), kind.remedy, kind.detail) for kind in kinds]
    tables = iter(
        [
            _table(("name", "meaning", "default"), _settings()),
            _table(("command", "what", "options"), _commands(commands, "")),
            _table(("slug", "status", "remedy", "meaning, and what to do"), problems),
        ]
    )
    text = FILE.read_text(encoding="utf-8")
    return re.sub(r"(?m)(^\|.*\n)+", lambda _: "".join(f"{line}\n" for line in next(tables)), text)


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + " --- |" * len(names)
    yield from (f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in row)} |" for row in rows)


def _settings() -> Iterator[tuple[str, ...]]:
    fields = {setting_name(field): info for field, info in Settings.model_fields.items()}
    for name, meaning in MEANINGS.items():
        secret = " A secret." if name in SECRETS else ""
        yield f"`{name}`", f"{meaning}{secret}", _default(fields.get(name))


def _default(info: FieldInfo | None) -> str:
    if info and info.is_required():
        return "– (refuses to start)"
    value = info.default if info else None
    if value in (None, (), "", PydanticUndefined):
        return "–"
    return f"`{int(value) if isinstance(value, bool) else value}{'/' if isinstance(value, Path) else ''}`"


def _commands(group: click.Group, before: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
            continue
        context = click.Context(command)
        arguments = [f" {each.make_metavar(context)}" for each in command.params if isinstance(each, click.Argument)]
        options = [_option(each) for each in command.params if isinstance(each, click.Option)]
        yield f"`{before}{name}{''.join(arguments)}`", command.help or "", "; ".join(options)


def _option(option: click.Option) -> str:
    names = "/".join([*option.opts, *option.secondary_opts])
    if option.opts == ["--json"]:
        return f"`{names}`"
    default = f" (by default {option.default})" if option.show_default else ""
    return f"`{names}` {(option.help or '').rstrip('.')}{default}"


if __name__ == "__main__":
    from gateway.cli.main import main

    FILE.write_text(reference(main), encoding="utf-8")
