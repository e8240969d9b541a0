"""Equalize the ranges of channels across two convolutions: the same function, easier to quantize.

A ReLU lets a positive factor through, so channel i of the tensor between two convolutions can be
divided by any s and the second convolution's weights of that channel multiplied by it (Nagel et
al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). One scale for
the whole tensor then wastes fewer of its steps on the widest channel.

Factors are powers of two. Such a product changes a float's exponent alone, unless the result is
subnormal or overflows, so every weight, product and partial sum is the old one times a power of two
and keeps its bits: the function in float32 is the same to the last bit. Channels with weights so
small or large that this could fail are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resnext.errors import BadInput, UsageError

from .base import PassResult
from .chains import Chain, chains
from .equalize_proof import prove_equalized
from .graph import groups_of, refuse_quantized
from .initializers import Constants
from .quantized import convolution_weights

#: Largest exponent, either way: a channel moves by a factor of 65,536 at most.
MOST = 16
#: Weights that two moves of `MOST` leave far from float32's subnormal numbers and from infinity.
_SAFE = (2.0**-90, 2.0**90)


def chosen_exponents(
    proto: onnx.ModelProto, largest: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[int, ...]]:
    """How far to move each channel.

    Scales of weights are one for each output channel, so the first convolution's cost nothing. What
    counts is the range of the tensor, with one scale, and within each row of the second
    convolution the range of its weights. A channel's factor is the root of the quotient of both:
    of its largest activation, and of the largest weight that reads it relative to the largest of
    the row. This is the rule of Nagel et al. with activations in place of the first weights.
    Factors are relative to their median in the tensor, and rounded towards 1 to powers of two: what
    is within a factor of 2 is even enough, and moving it mended nothing on the shipped networks.

    Args:
        proto: the float32 graph.
        largest: largest activation of each channel (C) over the calibration images, by
            `Chain.tensor`.

    Returns:
        Exponents by the name of `Chain.first`, one for each channel; chains without a move are
        left out.

    Raises:
        BadInput: as `convolution_weights`, or a chain was not measured.
    """
    weights = convolution_weights(proto)
    chosen = {}
    for chain in chains(proto.graph):
        if chain.tensor not in largest:
            raise BadInput(f"the channels of tensor {chain.tensor!r} were not measured")
        activations = largest[chain.tensor].astype(np.float64)
        second = weights[chain.second.name].astype(np.float64)
        size = abs(second)
        rows = size.reshape(len(size), -1).max(axis=1).reshape(-1, *[1] * (size.ndim - 1))
        share = _channels(np.divide(size, rows, out=np.zeros_like(size), where=rows > 0), chain)
        first = abs(weights[chain.first.name].astype(np.float64)).reshape(len(activations), -1)
        movable = (activations > 0) & (share.max(axis=1) > 0)
        movable &= _safe(first) & _safe(_channels(size, chain))
        if not movable.any():
            continue
        wanted = 0.5 * np.log2(activations[movable] / share.max(axis=1)[movable])
        exponents = np.zeros(len(activations), int)
        exponents[movable] = np.clip(np.trunc(wanted - np.median(wanted)), -MOST, MOST)
        if exponents.any():
            chosen[chain.first.name] = tuple(map(int, exponents))
    return chosen


@dataclass(frozen=True)
class Equalize:
    """Divide channels between two convolutions by powers of two, and multiply them back.

    Attributes:
        exponents: by the name of a chain's first Conv, for each channel: its weights and bias are
            divided by two to that power, and the second's weights of that channel multiplied.
    """

    exponents: Mapping[str, tuple[int, ...]]

    def requires(self, proto: onnx.ModelProto) -> None:
        """Check that each named Conv begins a chain of float32 constants with these channels.

        Raises:
            BadInput: the graph is quantized, or a weight or bias is no float32 constant of it.
            UsageError: a Conv begins no chain, has another number of channels, or an exponent is
                beyond `MOST`.
        """
        refuse_quantized(proto, "the graph")
        constants, weights = Constants(proto.graph), convolution_weights(proto)
        known = {chain.first.name: chain for chain in chains(proto.graph)}
        for name, exponents in self.exponents.items():
            if name not in known or len(exponents) != len(weights[name]):
                raise UsageError(
                    f"{name!r} is no convolution with {len(exponents)} channels to move"
                )
            if any(abs(exponent) > MOST for exponent in exponents):
                raise UsageError(f"exponents of {name!r} are beyond -{MOST} to {MOST}")
            for conv in (known[name].first, known[name].second):
                held = (constants[each] for each in conv.input[1:] if each in constants)
                types = [tensor.data_type for tensor in held]
                if types != [onnx.TensorProto.FLOAT] * (len(conv.input) - 1):
                    raise BadInput(
                        f"convolution {conv.name!r} has other weights than float32 constants",
                        hint="equalize the float32 export",
                    )

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Move the ranges in a copy; ``changed`` names the first Conv of each chain."""
        equalized = onnx.ModelProto()
        equalized.CopyFrom(proto)
        constants = Constants(equalized.graph)
        changed = []
        for chain in chains(equalized.graph):
            if chain.first.name not in self.exponents:
                continue
            exponents = np.array(self.exponents[chain.first.name])
            for slot in range(1, len(chain.first.input)):
                array = numpy_helper.to_array(constants[chain.first.input[slot]])
                each = exponents.reshape(-1, *[1] * (array.ndim - 1))
                constants.replace(chain.first, slot, np.ldexp(array, -each), "equalized")
            array = numpy_helper.to_array(constants[chain.second.input[1]])
            moved = np.ldexp(array, _by_reader(exponents, array))
            constants.replace(chain.second, 1, moved, "equalized")
            changed.append(chain.first.name)
        return PassResult(equalized, tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """See `prove_equalized`."""
        return prove_equalized(before, after, self.exponents)


def _channels(weight: NDArray[np.float64], chain: Chain) -> NDArray[np.float64]:
    """The values of ``weight`` (O x I/groups x kernel) that read each input channel: I x values."""
    groups = groups_of(chain.second)
    split = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return split.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


def _by_reader(exponents: NDArray[np.int64], weight: NDArray[Any]) -> NDArray[np.int64]:
    """The exponent of the input channel of each weight, O x I/groups x 1 ..."""
    groups = len(exponents) // weight.shape[1]
    rows = exponents.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))


def _safe(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether every value of each row survives two moves, or is zero."""
    low, high = _SAFE
    safe: NDArray[np.bool_] = ((values == 0) | ((values >= low) & (values <= high))).all(axis=1)
    return safe
