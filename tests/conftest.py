from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from traced import traced_once


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder that is empty when the tests start: what the user's holds must not decide what
    they find.
    """
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("RESNEXT_CACHE_DIR", "TORCH_HOME", "HF_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_outside() -> Iterator[None]:
    """No host but this one: a test that fetches something has to serve it."""
    resolve = socket.getaddrinfo

    def resolve_here(host: Any, *arguments: Any, **others: Any) -> Any:
        if host not in ("localhost", "::1", None, "") and not str(host).startswith("127."):
            raise OSError(f"tests must not reach {host}")
        return resolve(host, *arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
        patch.setattr(socket, "getaddrinfo", resolve_here)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C reaches the tests: a shell lets its background jobs ignore it, and a test that waits
    for an interruption would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> Iterator[None]:
    """What the commands print is as wide as it is: pytest-xdist gives its workers 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("COLUMNS", "LINES"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _traced_once() -> Iterator[None]:
    """The same network is traced to ONNX once (`traced`)."""
    with traced_once():
        yield
