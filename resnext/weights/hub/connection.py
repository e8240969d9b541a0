"""Whether a server takes connections, known within seconds.

The hub's library tries for most of a minute to reach one that does not, and for each file again.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

#: Longest wait for one address, seconds. After it no other address of that family is tried.
_TIMEOUT_S = 3.0


def connection_error(url: str) -> OSError | None:
    """Why the server of ``url`` takes no connection, None if it takes one.

    None as well if a proxy connects to it, or if ``url`` names no server.
    """
    proxies = getproxies()
    try:
        parts = urlsplit(url)
        if parts.hostname is None or parts.scheme in proxies or "all" in proxies:
            return None
        port = parts.port or (80 if parts.scheme == "http" else 443)
        addresses = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except ValueError:
        return None
    except OSError as exc:
        return exc
    error: OSError | None = None
    silent = set()
    for family, kind, protocol, _, address in addresses:
        if family in silent:
            continue
        try:
            with socket.socket(family, kind, protocol) as connection:
                connection.settimeout(_TIMEOUT_S)
                connection.connect(address)
        except TimeoutError as exc:
            silent.add(family)
            error = exc
        except OSError as exc:
            error = exc
        else:
            return None
    return error
