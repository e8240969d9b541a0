from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from traced import traced_once

# A million objects of modules and collected tests live as long as the process. To walk them
# took half a second whenever a benchmark collects garbage before it looks at memory, and a third of
# the time to collect the tests. Frozen, they are walked no more; garbage of the tests still is.


def pytest_sessionstart() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """What the modules' tests before imported is walked no more either."""
    gc.collect()
    gc.freeze()


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
def _traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same network is traced to ONNX once (`traced`), by the first worker that needs it."""
    workers = "PYTEST_XDIST_WORKER" in os.environ
    with traced_once(tmp_path_factory.getbasetemp().parent / "traced" if workers else None):
        yield
