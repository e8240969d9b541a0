"""Where a served model is: a URL, taken apart and checked.

Loads no library, so that a command can check a URL before it starts.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from resnext.errors import UsageError

#: Spelling of a URL, for messages and help texts.
FORM = "http|https|grpc://HOST[:PORT]/MODEL"
#: Port of a URL without one: those of HTTP, and Triton's for gRPC.
_PORTS = MappingProxyType({"http": 80, "https": 443, "grpc": 8001})
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*", re.ASCII)
#: A path as the protocol itself spells it, perhaps behind a prefix of a gateway.
_PATH = re.compile(
    r"(?P<prefix>.*?)(?:/v2/models)?/(?P<model>[^/]+)(?:/versions/(?P<version>\d+))?"
)


@dataclass(frozen=True)
class Address:
    """A model on a server.

    Attributes:
        scheme: ``http``, ``https`` or ``grpc`` (without TLS).
        host: name or address.
        port: TCP port.
        model: its name on the server.
        version: its version there; "" for the one that the server chooses.
        prefix: path in front of ``/v2``, behind a gateway; "" on the server itself.
    """

    scheme: str
    host: str
    port: int
    model: str
    version: str = ""
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take ``url`` apart.

        Raises:
            UsageError: no such URL; says what is wrong with it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise _refused(url, str(exc)) from exc
        if parts.scheme not in _PORTS:
            raise _refused(url, f"the scheme {parts.scheme!r} is not {', '.join(_PORTS)}")
        if not parts.hostname:
            raise _refused(url, "it names no host")
        if parts.username is not None or parts.query or parts.fragment:
            raise _refused(url, "it has a user, a query or a fragment")
        path = _PATH.fullmatch(parts.path.rstrip("/"))
        model = unquote(path["model"]) if path else ""
        if path is None or not _NAME.fullmatch(model):
            raise _refused(url, "its path is not the name of a model")
        prefix = path["prefix"]
        if prefix and (parts.scheme == "grpc" or "/v2/models/" not in parts.path):
            raise _refused(url, "its path is not the name of a model")
        version = path["version"] or ""
        return cls(
            parts.scheme, parts.hostname, port or _PORTS[parts.scheme], model, version, prefix
        )

    @property
    def server(self) -> str:
        """The server alone, as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def target(self) -> str:
        """Host and port, as gRPC takes them."""
        return self.server.removeprefix(f"{self.scheme}://")

    @property
    def here(self) -> bool:
        """Whether the host is this machine, so that the server takes its processors."""
        with suppress(OSError):
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
            family, kind, _, _, where = found[0]
            with socket.socket(family, kind) as probe:
                probe.connect(where)  # of a datagram socket: nothing is sent
                return str(probe.getsockname()[0]) == str(probe.getpeername()[0])
        return False


def _refused(url: str, why: str) -> UsageError:
    shown = re.sub(r"//[^/]*@", "//***@", url)[:200]  # not the password
    return UsageError(f"the URL {shown!r} is not {FORM}: {why}")
