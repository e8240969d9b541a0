"""What a pass is, and the one way to run it: check before, rewrite, check after."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import onnx


class PassResult(NamedTuple):
    """The outcome of a pass.

    Attributes:
        proto: the new model, which shares no memory with the old one.
        changed: names of the changed nodes, in graph order.
        skipped: names of nodes that the pass left alone although it is made for their kind, each
            with the reason.
        max_error: largest difference that the check afterwards measured, relative to the root mean
            square of the values; 0 if it measures none.
    """

    proto: onnx.ModelProto
    changed: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    max_error: float = 0.0


class Pass(Protocol):
    """ONNX to ONNX. An instance carries its options and can be run on any number of models."""

    def requires(self, proto: onnx.ModelProto) -> None:
        """Refuse a model that the pass is not made for."""

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Rewrite a copy of ``proto``, which stays as it is."""

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """Check the outcome; returns the largest relative error measured, 0 if none is.

        Raises:
            GateFailed: ``after`` is not what the pass promises.
        """


def run_pass(rewrite: Pass, proto: onnx.ModelProto) -> PassResult:
    """Run a pass between its checks.

    Raises:
        ResnextError: as the pass's `requires`, `apply` and `ensures` say.
    """
    rewrite.requires(proto)
    result = rewrite.apply(proto)
    return result._replace(max_error=rewrite.ensures(proto, result.proto))
