"""What TensorRT says. Many of its calls fail by returning None or False and a line in the log, so
the log is kept.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: One logger for each library: TensorRT keeps the first that it is given, process-wide.
_LOGGERS: dict[str, Any] = {}
#: How the builder's list of the finished engine's layers begins, with and without its heading.
_LAYERS = ("Engine Layer Information:\nLayers:", "Layers:\n")
#: Noise of a machine without a driver, and the library's own source positions.
_NO_DRIVER = re.compile(r"cudaError 35|catchCudaError")
_WHERE = re.compile(r"\s*(In [\w:~<>() ]+ at \S+|\[[\w.]+::?[\w~<>:() ]+\]) *")


class Log:
    """Lines of one capture.

    Attributes:
        errors: lines of severity error and above, in order.
        warnings: likewise.
        layers: the builder's own list of the finished engine's layers, or "".
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers = ""

    def reason(self) -> str:
        """The line that says why something failed, in short, or a sentence that there is none."""
        told = [short for line in self.errors if (short := shorten(line))]
        return told[0] if told else "the library gave no reason"


def shorten(text: str) -> str:
    """One line of the library's without source positions; "" for what only says that there is no
    driver.
    """
    lines = [line for line in text.splitlines() if line.strip() and not _NO_DRIVER.search(line)]
    if not lines:
        return ""
    line = _WHERE.sub(" ", lines[0])
    inner = re.search(r"Error Code \d+: [\w ]+ ?\((.*)\)?$", line)
    line = inner.group(1).removesuffix(")") if inner else line
    return " ".join(line.split()).removesuffix(".").strip()


@contextmanager
def captured(trt: Any) -> Iterator[tuple[Any, Log]]:
    """The library's logger, and a `Log` that takes what it says inside the block, from any thread.

    Captures of one library may not be nested.
    """
    keeper = _logger(trt)
    log = Log()
    keeper.log_to = log
    try:
        yield keeper, log
    finally:
        keeper.log_to = None


def _logger(trt: Any) -> Any:
    if trt.__name__ not in _LOGGERS:
        severities = trt.ILogger.Severity

        class Keeper(trt.ILogger):  # type: ignore[misc]  # the library is only known when it is loaded
            """Hands each line to the capture that is going on."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.log_to: Log | None = None
                self._lock = threading.Lock()

            def log(self, severity: Any, message: str) -> None:
                with self._lock:
                    if self.log_to is None:
                        return
                    if severity in (severities.ERROR, severities.INTERNAL_ERROR):
                        self.log_to.errors.append(message)
                    elif severity == severities.WARNING:
                        self.log_to.warnings.append(message)
                    elif message.startswith(_LAYERS):
                        self.log_to.layers = message

        _LOGGERS[trt.__name__] = Keeper()
    return _LOGGERS[trt.__name__]
