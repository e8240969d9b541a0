"""Variables that decide how downloads reach the network. Secrets are never printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .facts import Facts
from .observation import Observation, ok, problem, warning

_SHOWN = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "TORCH_HOME", "NO_PROXY", "no_proxy")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def check_network(facts: Facts) -> Iterator[Observation]:
    """Offline mode, mirrors, proxies and certificates; nothing is sent."""
    environ, shown = facts.environ, []
    for name in _SHOWN:
        if environ.get(name):
            shown.append(f"{name}={_without_password(environ[name])}")
    for name in _PROXIES:
        if not environ.get(name):
            continue
        shown.append(f"{name}={_without_password(environ[name])}")
        if "://" not in environ[name]:
            yield warning(
                "odd-proxy",
                f"{name} has no scheme, and some libraries refuse it",
                f"export {name}=http://HOST:PORT",
            )
    shown += [f"{name} is set" for name in _SECRETS if environ.get(name)]
    for name in _CERTIFICATES:
        if path := environ.get(name):
            shown.append(f"{name}={path}")
            if not Path(path).exists():
                yield problem(
                    "no-certificates",
                    f"{name} names {path}, which is not there",
                    f"unset {name}",
                )
    yield ok(", ".join(shown) or "no proxy, mirror or offline mode is set")


def _without_password(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        return "(no URL)"
    if "@" not in value:
        return value
    return f"{parts.scheme}://{parts.hostname}:{parts.port}" if parts.hostname else "(hidden)"
