"""
Flask, less what no room here asks for: a third of what it costs a request (bench/README.md).

No signals, no before-, after- or teardown functions, no session of Flask's own (ours is a row, see `session`), and no address made
from a request's Host header: `unused` says which of these somebody registered after all, and `build_app` refuses to start over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter

_HOOKS = (
    "before_request_funcs",
    "after_request_funcs",
    "teardown_request_funcs",
    "url_value_preprocessors",
)


class _NoSession(SessionMixin):
    """Flask's `session`, which nobody may use here: it would be kept nowhere."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        raise RuntimeError("Flask's session is not kept: see gateway.web.session")

    def __delitem__(self, key: str) -> None:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _NoSessions(SessionInterface):
    """Opens nothing, saves nothing."""

    _none = _NoSession()

    def open_session(self, app: Flask, request: Request) -> SessionMixin:  # noqa: ARG002 - as Flask calls it
        """The same empty one for everybody."""
        return self._none


class Application(Flask):
    """What `build_app` fills with rooms."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is: none of ours is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Matches by path and method alone. Nothing here is built from a Host header, so that none is read."""
        if request is None:
            return None
        return MapAdapter(self.url_map, "", "", "", "", request.path, request.method)

    def full_dispatch_request(self) -> Response:
        """The answer of the route, or of the handler of what it raised."""
        try:
            answer = self.dispatch_request()
        except Exception as error:  # noqa: BLE001 - as Flask has it: the handlers are asked
            answer = self.handle_user_exception(error)
        return self.make_response(answer)

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        """Nothing to take down."""

    def do_teardown_appcontext(self, exc: BaseException | None = None) -> None:
        """Nothing to take down."""

    def unused(self) -> Iterator[str]:
        """What was registered and will never be called."""
        yield from (name for name in _HOOKS if any(getattr(self, name).values()))
        yield from ("teardown_appcontext_funcs",) if self.teardown_appcontext_funcs else ()
