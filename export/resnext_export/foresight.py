"""What an export would refuse or leave out, told from layers and weights, without a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resnext.errors import GateFailed
from resnext.network.layers import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .passes.lower import HalfPrecision


def left_by_fp8(layers: Iterable[Layer]) -> tuple[tuple[str, str], ...]:
    """The convolutions that an fp8 export leaves at fp16, each with the reason.

    Args:
        layers: of the network, merged or not; the classifier is no convolution.
    """
    from .passes.quantize_fp8 import too_narrow

    reasons = (
        (layer.name, too_narrow(layer.groups, layer.inputs // layer.groups))
        for layer in layers
        if layer.name != "fc"
    )
    return tuple((name, reason) for name, reason in reasons if reason)


def refused_by_half(
    tensors: Mapping[str, NDArray[Any]], precision: HalfPrecision
) -> GateFailed | None:
    """Why an export to half precision would be refused for a constant; None if all fit.

    Args:
        tensors: float32 weights and biases by name, batch norms folded, in execution order.
        precision: the type.
    """
    from .passes.lower import rounded

    for name, array in tensors.items():
        layer, _, kind = name.rpartition(".")
        try:
            rounded(array, precision, layer, name, weight=kind == "weight")
        except GateFailed as exc:
            return exc
    return None
