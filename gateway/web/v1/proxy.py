"""`/v1/connections/<id>/proxy/<path>`: the provider's API with the connection's token."""

import sys
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.datastructures import Headers
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import BaseConverter, Rule

from gateway.errors import TooLarge
from gateway.proxy.forward import forward
from gateway.proxy.request import LARGEST_KEPT, ProxiedRequest
from gateway.web.request_context import runtime
from gateway.web.v1.json_api import Call, caller
from gateway.web.v1.openapi import ANY_METHOD
from gateway.web.v1.tokens import PROVIDER_FAILED, UNUSABLE

blueprint = Blueprint("proxy", __name__)
_HEADERS = ("Gateway-Path", "Gateway-Retries", "Gateway-Location")


class Rest(BaseConverter):
    """The rest of the path, as it is: empty, or with doubled slashes too."""

    regex = "(?s:.*?)"
    part_isolating = False


@blueprint.record
def _register(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["rest"] = Rest
    state.app.url_map.add(Rule("/v1/connections/<uuid:connection_id>/proxy/<rest:path>", endpoint="proxy.proxy"))


class _HeadFirst(Response):
    """The head is sent at once: the first byte of an event stream may come much later."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """Addresses as the provider wrote them: Werkzeug would write them anew."""
        written = {name: self.headers[name] for name in ("Location", "Content-Location") if name in self.headers}
        return super().get_wsgi_headers(environ) | written

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        try:
            pieces, status, headers = self.get_wsgi_response(environ)
            start_response(status, headers)(b"")
        except BaseException:  # the client has gone
            self.close()
            raise
        return pieces


@blueprint.endpoint("proxy.proxy")
@Call(None, *UNUSABLE, *PROVIDER_FAILED, TooLarge, scope="proxy", headers=_HEADERS)
def proxy(connection_id: uuid.UUID, path: str) -> Response:  # noqa: ARG001
    """
    Calls the provider's API with the connection's token.

    Method, path, query, body and most headers go to the provider's API as they are, and its response comes back as it is, whatever
    its status. Cookies and `Authorization` are removed in both directions, and the token is masked if a response repeats it. Redirects
    are not followed. When the provider no longer accepts the token, it is refreshed and the call repeated once, if its body has at most
    1 MiB.
    """
    if request.method in ("CONNECT", "TRACE"):  # a tunnel, and an echo of the token: RFC 9110 section 9.3
        raise MethodNotAllowed(ANY_METHOD)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return Response(status=204)  # a browser's preflight, which is ours to answer
    with ExitStack() as held:
        response = forward(runtime(), caller(), connection_id, _proxied_request(), held)
        answer = _HeadFirst(response.body, response.status, list(response.headers.items()))
        answer.headers.add("Vary", "Authorization")  # no cache may give it to another caller
        answer.call_on_close(held.pop_all().close)
    return answer


def _proxied_request() -> ProxiedRequest:
    request.max_content_length = sys.maxsize  # the server has its own limit, and keeps the body on disk
    environ, length, stream = request.environ, request.content_length, request.stream
    path = environ["PATH_INFO"].encode("latin-1").split(b"/proxy/", 1)[1]  # the route's has no bytes but UTF-8
    body: bytes | Iterable[bytes] | None = None
    if length is not None and length <= LARGEST_KEPT:
        body = stream.read()
    elif length is not None or "HTTP_TRANSFER_ENCODING" in environ:
        body = iter(lambda: stream.read(65536), b"")
    return ProxiedRequest(
        request.method,
        b"/" + path,
        environ.get("QUERY_STRING", ""),
        dict(request.headers.items()),
        body,
        length,
        environ.get("waitress.client_disconnected"),
    )
