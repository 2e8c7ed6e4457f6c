"""
The doctor: checks everything that an installation needs, and says what to fix. It changes nothing.

It reads the settings as `serve` does, so that both refuse the same ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing

from gateway.doctor import database, environment, providers
from gateway.doctor.report import Finding, finding, lines
from gateway.errors import SettingsRefused
from gateway.services import build_runtime
from gateway.settings import judge_settings

__all__ = ["Finding", "examine", "finding", "lines", "providers"]


def examine(environ: Mapping[str, str], *, embedded: bool = False, access_token: str = "") -> Iterator[Finding]:
    """
    Every finding, as it is made.

    `embedded`: the database is our own, which `serve` keeps up to date. `access_token`: a user's, to be examined too.
    """
    try:
        rt = build_runtime(*judge_settings(environ))
    except SettingsRefused as refused:
        yield from refused_settings(refused)
        return
    with closing(rt):
        yield from environment.examine(rt, environ)
        yield from database.examine(rt, embedded=embedded)
        yield from environment.examine_sign_in(rt)
        if access_token:
            yield environment.examine_token(rt, access_token)
        yield from providers.examine(rt)


def refused_settings(refused: SettingsRefused) -> Iterator[Finding]:
    yield from (finding("settings.refused", problem=problem) for problem in refused.problems)
    yield finding("settings.rest")
