"""The OAuth integration gateway: `create_app` shows the order of assembly."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from flask import Flask

__version__ = "0.1.0"


def create_app(environ: "MutableMapping[str, str] | None" = None) -> "Flask":
    """
    The WSGI application, assembled from the settings in `environ` (by default the process environment and `.env`).

    Secrets are taken out of `environ` before anything else is built: WSGI servers copy it into every request. Raises
    SettingsRefused with all problems at once.
    """
    import os

    from gateway.log_setup import start_log
    from gateway.services import build_runtime
    from gateway.settings import forget_secrets, judge_settings
    from gateway.web.app import build_app

    start_log()
    settings, problems = judge_settings(environ)
    forget_secrets(os.environ if environ is None else environ)
    return build_app(build_runtime(settings, problems))
