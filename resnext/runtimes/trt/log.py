"""TensorRT's log. Many calls fail by returning None or False, and only the log has the reason."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: One logger per library: TensorRT keeps the first one for the whole process.
_LOGGERS: dict[str, Any] = {}
#: Beginnings of the builder's list of layers, with and without its heading.
_LAYERS = ("Engine Layer Information:\nLayers:", "Layers:\n")
#: Noise on a machine without a driver, and source positions inside the library.
_NO_DRIVER = re.compile(r"cudaError 35|catchCudaError")
_WHERE = re.compile(r"\s*(In [\w:~<>() ]+ at \S+|\[[\w.]+::?[\w~<>:() ]+\]) *")


class Log:
    """Lines of one capture.

    Attributes:
        errors: messages of severity error and above, in order.
        warnings: messages of severity warning, in order.
        layers: the builder's list of the finished engine's layers, or "".
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers = ""

    def reason(self) -> str:
        """The first error, shortened, or a sentence that says that there is none."""
        reasons = (short for line in self.errors if (short := shorten(line)))
        return next(reasons, "the library gave no reason")


def shorten(text: str) -> str:
    """The first line of a message without source positions; "" if it only reports that there is no
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
    """The library's logger, and a `Log` of its messages inside the block, from any thread.

    Captures of one library must not be nested.
    """
    recorder = _recorder(trt)
    log = Log()
    recorder.log_to = log
    try:
        yield recorder, log
    finally:
        recorder.log_to = None


def _recorder(trt: Any) -> Any:
    if trt.__name__ not in _LOGGERS:
        severities = trt.ILogger.Severity

        class Recorder(trt.ILogger):  # type: ignore[misc]  # the library is only known when it is loaded
            """Adds each message to the current capture."""

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

        _LOGGERS[trt.__name__] = Recorder()
    return _LOGGERS[trt.__name__]
