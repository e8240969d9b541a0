"""The interface of a connection to one model on one server."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from resnext.errors import SessionFailed, first_line, printable
from resnext.runtimes.session import Arrays

from .answers import Indexed, Metadata, ModelConfig, ServerMetadata, Statistics

#: Seconds to connect, and to answer what needs no inference.
CONNECT_S, ASK_S = 5.0, 10.0
#: Seconds for an inference. A server may build an engine at the first one.
INFER_S = 120.0


class Transport(Protocol):
    """One connection, for one thread at a time. Every method ends in time.

    Each raises `SessionFailed` if the server is not there, answers with an error or something else
    than the protocol says, or does not answer in time.
    """

    @property
    def form(self) -> str:
        """How tensors travel, in words."""

    def ready(self) -> str:
        """ "" if the model is ready, else what the server says instead."""

    def server(self) -> ServerMetadata:
        """The server itself."""

    def index(self) -> tuple[Indexed, ...] | None:
        """The models of the server; None if it does not tell."""

    def metadata(self) -> Metadata:
        """What the model takes and gives."""

    def config(self) -> ModelConfig | None:
        """How the model is run; None if the server does not tell."""

    def statistics(self) -> Statistics | None:
        """The server's counters of the model; None if it does not tell."""

    def infer(self, inputs: Arrays, outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """One inference; the caller owns the outputs."""

    def close(self) -> None:
        """Close the connection. May be called twice."""


def not_there(server: str, exc: BaseException | str) -> SessionFailed:
    """Nothing answers at ``server``."""
    return SessionFailed(
        f"no server at {server}: {first_line(exc)}",
        hint="start it, or mend host and port of the URL; HTTP and gRPC have a port each",
    )


def went_away(server: str, exc: BaseException | str) -> SessionFailed:
    """``server`` ended in the middle."""
    return SessionFailed(
        f"{server} broke off in the middle of a request: {first_line(exc)}",
        hint="see the server's log: it may have crashed, or have been stopped",
    )


def too_late(server: str, timeout_s: float) -> SessionFailed:
    """``server`` does not answer."""
    return SessionFailed(
        f"{server} did not answer within {timeout_s:.3g} s",
        hint="see the server's log, or send smaller batches",
    )


def said(server: str, status: str, message: str) -> SessionFailed:
    """``server`` refused a request."""
    text = printable(first_line(message) if message.strip() else "no reason")[:500]
    return SessionFailed(f"{server} refused the request ({status}): {text}")
