"""
Which addresses the gateway may call: a URL as it is written, and the addresses its name resolves to.

Without `allow_private`: public addresses over https. With it: also loopback and private networks, there over plain http too.
Link-local (cloud metadata), multicast, reserved and unspecified addresses: never.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from gateway.errors import ProviderUnavailable

Resolver = Callable[[str], Sequence[str]]
"""From a host name to its IP addresses, in the order to try them; raises OSError when there are none."""

_MOST_LOOKUPS = 64
"""Names that are being looked up at once: a name server that hangs for some names must not stop the others."""
_HTTPS_PORT = 443
_SYSTEM_PORTS = 1024
_URL = re.compile(
    r"(?i:(https?))://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~:/@!$&'()*+,;=%\[\]-]*)?(?:\?[!\"$-~]*)?)"
)
"""A query may hold every visible character but `#`, as browsers and programs send it."""
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
"""RFC 6761 section 6.3, RFC 6762, RFC 8375, and ICANN's name for private use. Names of one label are local too."""

_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"),
    )
)
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("168.63.129.16/32", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
"""The IANA special-purpose registries (RFC 6890), and what Azure offers each of its machines; listed here because `ipaddress` of older Pythons knows fewer."""

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are the IPv4 address that is reached."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port (RFC 6454). `host` is lower case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def check_url(url: str, *, allow_private: bool = False) -> Origin:
    """
    The origin of `url`, if it may be called as it is written; the name's addresses are judged at each connection.

    Raises ValueError; its message repeats nothing of the URL beyond the host.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(
            "not a plain web address: scheme, host, port, path and query in ASCII, no user and no fragment"
        )
    return _check_origin(found[1].lower(), found[2].lower(), found[3], allow_private)


def target_of(url: str) -> str:
    """The request target (RFC 9112 section 3.2.1) of a URL that `check_url` accepted, byte for byte."""
    found = _URL.fullmatch(url)
    target = (found[4] if found else "") or "/"
    return target if target.startswith("/") else "/" + target


@lru_cache(maxsize=1024)
def _check_origin(scheme: str, host: str, port_text: str | None, allow_private: bool) -> Origin:  # noqa: FBT001 - a cache key
    port = int(port_text) if port_text else {"http": 80, "https": _HTTPS_PORT}[scheme]
    if not 0 < port < 2**16:
        raise ValueError("the port is not between 1 and 65535")
    if scheme == "http" and not allow_private:
        raise ValueError("plain http is not allowed: use https")
    if port < _SYSTEM_PORTS and port != _HTTPS_PORT and not allow_private:
        raise ValueError(f"port {port} belongs to another protocol: use 443, or one from 1024 up")
    address = _literal(host)
    if address is None:
        _check_name(host, allow_private=allow_private)
        return Origin(scheme, host, port)
    if not _permitted(address, scheme, allow_private=allow_private):
        raise ValueError(
            "the address is not a public one" if scheme == "https" else "plain http is for private addresses only"
        )
    return Origin(scheme, str(address), port)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """
    `host` as an IP address; None for a name.

    Most resolvers read a name whose last label is a number as an IPv4 address (`0x7f.1`, `2130706433`; WHATWG URL, "ends
    in a number"): only four plain decimal parts are accepted.
    """
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1])
        if _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
            return ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError("the host is an IP address in an unusual form") from None
    return None


def _check_name(host: str, *, allow_private: bool) -> None:
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("the host is not a host name")
    if not allow_private and ("." not in host or host.endswith(_LOCAL_NAMES)):
        raise ValueError(f"{host} is a name of the local network")


def _reach(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Literal["public", "private", "never"]:
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return _reach(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return _reach(address.ipv4_mapped)
    if any(address in network for network in _PRIVATE):
        return "private"
    if any(address in network for network in _NEVER):
        return "never"
    return "never" if address.version == 6 and address not in _PUBLIC_IPV6 else "public"  # noqa: PLR2004


def _permitted(address: ipaddress.IPv4Address | ipaddress.IPv6Address, scheme: str, *, allow_private: bool) -> bool:
    reach = _reach(address)
    return (reach == "private" and allow_private) or (reach == "public" and scheme == "https")


def system_addresses(host: str) -> Sequence[str]:
    """The addresses of `host` by the operating system. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class AddressPolicy:
    """Resolves an origin to the addresses that may be connected to."""

    def __init__(self, resolve: Resolver, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._running: dict[str, Future[Sequence[str]]] = {}
        self._lock = threading.Lock()

    def resolve(self, origin: Origin, seconds: float, *, any_address: bool = False) -> Sequence[str]:
        """
        The permitted IP addresses of `origin`, in the order to try them. The caller connects to these and resolves nothing again.
        `any_address`: of a host that the operator named, which may have a private address.

        Raises ProviderUnavailable when there is none within `seconds`, and when one of them is forbidden: which of them is
        used must not depend on chance or on the name server.
        """
        literal = _literal(f"[{origin.host}]" if ":" in origin.host else origin.host)
        addresses = [str(literal)] if literal else self._look_up(origin, seconds)
        for address in addresses:
            allowed = self._allow_private or any_address
            if not _permitted(ipaddress.ip_address(address), origin.scheme, allow_private=allowed):
                raise ProviderUnavailable(f"{origin}: resolves to an address that may not be called")
        if not addresses:
            raise ProviderUnavailable(f"{origin}: the name has no address")
        return addresses

    def _look_up(self, origin: Origin, seconds: float) -> Sequence[str]:
        """Nothing interrupts getaddrinfo: each name has one thread, shared by its callers and abandoned when it is late."""
        with self._lock:
            future = self._running.get(origin.host)
            if future is None:
                if len(self._running) >= _MOST_LOOKUPS:
                    raise ProviderUnavailable(f"{origin}: too many names are being looked up")
                future = self._running[origin.host] = Future()
                threading.Thread(target=self._run, args=(origin.host, future), name="http-dns", daemon=True).start()
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            raise ProviderUnavailable(f"{origin}: the name was not resolved in time") from None
        except (OSError, UnicodeError):
            raise ProviderUnavailable(f"{origin}: the name does not resolve") from None

    def _run(self, host: str, future: Future[Sequence[str]]) -> None:
        try:
            addresses, problem = self._resolve(host), None
        except Exception as error:  # noqa: BLE001 - every waiting call must receive it
            addresses, problem = (), error
        with self._lock:  # before the result is set: a later caller starts a lookup of its own
            del self._running[host]
        if problem is None:
            future.set_result(addresses)
        else:
            future.set_exception(problem)
