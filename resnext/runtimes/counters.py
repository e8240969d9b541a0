"""Counters of a server that computes for a session, so that its time and ours can be told apart."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Counters:
    """What a server has counted for one model so far, in all; times in nanoseconds.

    Attributes:
        sent: requests that this session sent.
        requests: requests that the server answered, whoever sent them.
        images: images in them.
        executions: runs of the network; fewer than requests if the server batched some.
        cached: requests that a response cache answered, without the network.
        server_ns: from a request to its answer.
        queue_ns: of that, waiting for an instance or for other requests of a batch.
        input_ns: gathering the inputs.
        infer_ns: running the network.
        output_ns: handing out the outputs.
    """

    sent: int = 0
    requests: int = 0
    images: int = 0
    executions: int = 0
    cached: int = 0
    server_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def __sub__(self, before: Counters) -> Counters:
        """What was counted since ``before``."""
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Counters(*(now - then for now, then in pairs))

    def __add__(self, other: Counters) -> Counters:
        """Both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counters(*(one + two for one, two in pairs))
