"""Stored weights, biases and scales, held against the network's.

Batch norms are folded here in float64. Every rounding between there and the file is monotonic, so a
stored value must lie between what the two ends of the folding error are rounded to: half a step of
its scale, or half a unit in the last place, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.specs import numpy_dtype
from resnext.weights.spec import Weights

from .graph import Dequantized, Fixed, Value
from .network import Scheme, StoredLayer, Structure

#: Of every batch norm of the network.
_EPSILON = 1e-5
#: Four roundings to float32 lead from a batch norm to a folded weight; a few more to a bias.
_WEIGHT_ERROR, _BIAS_ERROR = 4 * 2.0**-24, 8 * 2.0**-24
#: A quotient or product of two float32 numbers that were rounded themselves.
_QUOTIENT_ERROR = 4 * 2.0**-24
#: An int32 bias that would not fit makes its scale larger, by this much more than needed.
_BIAS_STEPS, _BIAS_MARGIN = 2.0**31 - 1, 1.0001

_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Span:
    """Values that are known up to rounding: from ``low`` to ``high``."""

    low: _Doubles
    high: _Doubles

    @classmethod
    def around(cls, exact: _Doubles, error: _Doubles) -> _Span:
        return cls(exact - error, exact + error)

    def rounded(self, dtype: str) -> _Span:
        """As the element type ``dtype`` holds them; float32 comes first, as in an export."""
        kind = numpy_dtype(dtype)
        with np.errstate(over="ignore", under="ignore"):
            ends = (end.astype(np.float32).astype(kind) for end in (self.low, self.high))
            return _Span(*(end.astype(np.float64) for end in ends))

    def over(self, scale: _Doubles) -> _Span:
        """In units of ``scale``."""
        low, high = self.low / scale, self.high / scale
        return _Span(low - abs(low) * _QUOTIENT_ERROR, high + abs(high) * _QUOTIENT_ERROR)

    def plus(self, other: _Span) -> _Span:
        return _Span(self.low + other.low, self.high + other.high)

    def clipped(self, least: float, most: float) -> _Span:
        return _Span(np.clip(self.low, least, most), np.clip(self.high, least, most))


@dataclass(frozen=True)
class _Factor:
    """What a batch norm multiplies each output channel by, in float64 and as float32 gives it."""

    exact: _Doubles
    single: NDArray[np.float32]


def weight_differences(
    structure: Structure, weights: Weights, ranges: Mapping[str, tuple[float, float]] | None
) -> tuple[str, ...]:
    """Where a file does not store the weights of its network at its precision.

    Args:
        structure: the file's graph.
        weights: the network's.
        ranges: the calibrated range of each quantized tensor; None if it is not known.

    Returns:
        One line for each tensor that differs: the layer, what is stored, what is allowed.
    """
    state = {name: tensor.numpy() for name, tensor in weights.state_dict.items()}
    lines: list[str] = []
    for name, stored in structure.stored.items():
        lines += _layer_differences(name, stored, structure, state)
    return (*lines, *_scale_differences(structure, ranges), *_odd_means(structure, ranges))


def _layer_differences(
    name: str, stored: StoredLayer, structure: Structure, state: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    raw = state[f"{name}.weight"]
    factor, bias = _folded_norm(name, state)
    if structure.exponents:
        raw, factor, bias = _moved(name, structure.exponents, raw, factor, bias)
    blocks, rest = _blocks(stored)
    if rest:
        yield f"{name}: {rest} weights between the merged groups are not zero"
    yield from _weight_differences(name, stored, blocks, raw, factor, bias, structure)
    lost = _lost(name, stored, blocks, raw, factor, structure)
    if not isinstance(stored.bias, Dequantized):
        allowed = bias.rounded(stored.dtype)
        if lost is not None:
            allowed = allowed.plus(lost).rounded(stored.dtype)
        yield from _outside(name, "biases", _plain(stored.bias), allowed, stored.dtype)
        return
    assert isinstance(stored.weight, Dequantized)  # the graph was checked
    assert stored.source is not None
    scales = stored.bias.scale.astype(np.float64)
    product = _scalar(stored.source) * stored.weight.scale.astype(np.float64)
    wanted = _Span.around(product, product * _QUOTIENT_ERROR)
    yield from _outside(name, "scales of biases (input times weight)", scales, wanted, "float32")
    units = bias.over(scales).clipped(-_BIAS_STEPS - 1, _BIAS_STEPS)
    allowed = _Span(np.rint(units.low), np.rint(units.high))
    if lost is not None:
        more = lost.over(scales)
        allowed = allowed.plus(_Span(np.rint(more.low), np.rint(more.high)))
        allowed = allowed.clipped(-_BIAS_STEPS - 1, _BIAS_STEPS)
    yield from _outside(name, "biases", _plain(stored.bias), allowed, "steps of int32")


def _weight_differences(
    name: str,
    stored: StoredLayer,
    blocks: NDArray[Any],
    raw: NDArray[Any],
    factor: _Factor | None,
    bias: _Span,
    structure: Structure,
) -> Iterator[str]:
    shape = (-1, *[1] * (raw.ndim - 1))
    folded = raw if factor is None else raw * factor.single.reshape(shape)
    scale: _Doubles | None = None
    if isinstance(stored.weight, Dequantized):
        scale = stored.weight.scale.astype(np.float64)
        assert factor is not None
        largest = abs(raw).reshape(len(raw), -1).max(axis=1) * abs(factor.exact)
        span = _Span.around(largest, largest * _WEIGHT_ERROR).rounded(stored.dtype)
        wanted = _weight_scales(span, stored, bias, structure)
        yield from _outside(name, "weight scales", scale, wanted, stored.dtype)
        folded = folded.astype(numpy_dtype(stored.dtype)).astype(np.float32)
        folded /= scale.astype(np.float32).reshape(shape)
        folded = folded.round() if blocks.dtype == np.int8 else folded
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        same = blocks == (folded if blocks.dtype == np.int8 else folded.astype(blocks.dtype))
    # Nearly all are equal; only the others are worth float64.
    odd = np.flatnonzero(~same)
    if not len(odd):
        return
    values = raw.ravel()[odd].astype(np.float64)
    exact = values if factor is None else values * factor.exact[odd // raw[0].size]
    error = abs(exact) * (0 if factor is None else _WEIGHT_ERROR)
    span = _Span.around(exact, error).rounded(stored.dtype)
    unit = stored.dtype
    if scale is not None:
        assert structure.scheme is not None
        unit = f"steps of {structure.scheme.weight.name}"
        span = span.over(scale[odd // raw[0].size])
        span = _steps(span, structure.scheme)
    yield from _outside(
        name, "weights", blocks.ravel()[odd].astype(np.float64), span, unit, odd, raw.shape
    )


def _steps(units: _Span, scheme: Scheme) -> _Span:
    units = units.clipped(-scheme.steps, scheme.steps)
    if scheme.weight == np.int8:
        return _Span(np.rint(units.low), np.rint(units.high))
    return units.rounded(scheme.weight.name)


def _weight_scales(largest: _Span, stored: StoredLayer, bias: _Span, structure: Structure) -> _Span:
    """What maps each channel's largest weight to the largest step; 1 if all are zero."""
    scheme, dtype = structure.scheme, structure.dtype
    assert scheme is not None
    if scheme.bias:
        assert stored.source is not None
        most = np.maximum(abs(bias.low), abs(bias.high))
        needed = _BIAS_MARGIN * most / _BIAS_STEPS / _scalar(stored.source)
        largest = _Span(
            np.maximum(largest.low, needed * scheme.steps),
            np.maximum(largest.high, needed * scheme.steps),
        )
    return _scales(largest.over(np.array([scheme.steps], np.float64)), dtype)


def _scales(exact: _Span, dtype: str) -> _Span:
    """Scales as they are stored: one that is nearly zero becomes the smallest normal number of
    float16, or 1 in float32; that of zeros becomes 1.
    """
    tiny = float(np.finfo(numpy_dtype(dtype)).tiny)
    floor = tiny if dtype == "float16" else 1.0
    ends = []
    for end in exact.rounded("float32").low, exact.rounded("float32").high:
        least = np.where(end < tiny, floor, end)
        ends.append(np.where(end <= 0, 1.0, least))
    low, high = np.minimum(*ends), np.maximum(*ends)
    return _Span(low, high).rounded(dtype) if dtype == "float16" else _Span(low, high)


def _scale_differences(
    structure: Structure, ranges: Mapping[str, tuple[float, float]] | None
) -> Iterator[str]:
    pooled = dict(structure.pooled)
    for value in structure.quantized:
        scale, zero = _scalar(value), float(value.facts["zero"].item())
        if value in pooled:
            source = pooled[value]
            if (scale, zero) != (_scalar(source), float(source.facts["zero"].item())):
                yield (
                    f"{value.node}: scale {scale:g} and zero point {zero:g}, and pooling keeps"
                    f" those of its input, {_scalar(source):g} and {source.facts['zero'].item()}"
                )
        elif ranges is not None:
            yield from _activation_difference(value, scale, zero, structure.dtype, ranges)


def _odd_means(
    structure: Structure, ranges: Mapping[str, tuple[float, float]] | None
) -> Iterator[str]:
    """A mean outside of the calibrated range is none, and would move a bias anywhere."""
    for name, mean in (structure.means or {}).items():
        source = structure.stored[name].source
        assert source is not None  # the graph was checked
        low, high = (ranges or {}).get(source.facts["tensor"], (0.0, 0.0))
        if not min(low, 0.0) <= mean <= max(high, 0.0):
            yield (
                f"{name}: the manifest's mean of its input is {mean:g}, outside of the calibrated"
                f" range {low:g} to {high:g}"
            )


def _activation_difference(
    value: Value,
    scale: float,
    zero: float,
    dtype: str,
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[str]:
    tensor, kind = value.facts["tensor"], value.facts["dtype"]
    if tensor not in ranges:
        yield f"{value.node}: the manifest has no calibrated range for tensor {tensor!r}"
        return
    low, high = min(ranges[tensor][0], 0.0), max(ranges[tensor][1], 0.0)
    steps = {"uint8": 255, "int8": 127, "float8_e4m3fn": 448}[kind]
    wide = high - low if kind == "uint8" else max(-low, high)
    exact = np.array([wide / steps])
    wanted = _scales(_Span.around(exact, exact * _QUOTIENT_ERROR), dtype)
    if not wanted.low[0] <= scale <= wanted.high[0]:
        yield (
            f"{value.node}: scale {scale:.9g}, and the calibrated range {low:g} to {high:g} of"
            f" {tensor!r} gives {wanted.low[0]:.9g}"
        )
    nearest = -low / scale if kind == "uint8" else 0.0
    if abs(zero - nearest) > 0.5 + nearest * 1e-5:
        yield (
            f"{value.node}: zero point {zero:g}, and the calibrated range {low:g} to {high:g} of"
            f" {tensor!r} gives {nearest:.4g}"
        )


def _folded_norm(name: str, state: Mapping[str, NDArray[Any]]) -> tuple[_Factor | None, _Span]:
    """What the batch norm behind layer ``name`` does to it; the classifier has none."""
    if name == "fc":
        bias = state["fc.bias"].astype(np.float64)
        return None, _Span(bias, bias)
    prefix, _, last = name.rpartition(".")
    norm = f"{prefix}.1" if last == "0" else name.replace("conv", "bn")
    parts = [state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    gamma, beta, mean, variance = (part.astype(np.float64) for part in parts)
    exact = gamma / np.sqrt(variance + _EPSILON)
    error = (abs(mean * exact) + abs(beta)) * _BIAS_ERROR
    single = (parts[0] / np.sqrt(parts[3] + np.float32(_EPSILON))).astype(np.float32)
    return _Factor(exact, single), _Span.around(beta - mean * exact, error)


def _moved(
    name: str,
    exponents: Mapping[str, tuple[int, ...]],
    raw: NDArray[Any],
    factor: _Factor | None,
    bias: _Span,
) -> tuple[NDArray[Any], _Factor | None, _Span]:
    """A layer with the channels that it writes and reads moved as the manifest says.

    A layer is divided by exactly what the next is multiplied by, so a file that equals both is the
    network's function.
    """
    block, _, layer = name.rpartition(".")
    written = exponents.get(name)
    if written is not None and factor is not None:
        down = -np.array(written)
        factor = _Factor(np.ldexp(factor.exact, down), np.ldexp(factor.single, down))
        bias = _Span(np.ldexp(bias.low, down), np.ldexp(bias.high, down))
    before = {"conv2": "conv1", "conv3": "conv2"}.get(layer)
    read = exponents.get(f"{block}.{before}") if before else None
    if read is not None:
        # An output channel reads the input channels of its group.
        groups = len(read) // raw.shape[1]
        of_group = np.arange(len(raw)) // (len(raw) // groups)
        up = np.array(read).reshape(groups, -1)[of_group]
        raw = np.ldexp(raw, up.reshape(*up.shape, *[1] * (raw.ndim - 2)))
    return raw, factor, bias


def _lost(
    name: str,
    stored: StoredLayer,
    blocks: NDArray[Any],
    raw: NDArray[Any],
    factor: _Factor | None,
    structure: Structure,
) -> _Span | None:
    """What rounding took from each output on an input that is the recorded mean everywhere; None
    for a layer whose bias is the network's.
    """
    mean = (structure.means or {}).get(name)
    if mean is None or factor is None or not isinstance(stored.weight, Dequantized):
        return None
    exact = raw.reshape(len(raw), -1).astype(np.float64) * factor.exact.reshape(-1, 1)
    scale = stored.weight.scale.astype(np.float64).reshape(-1, 1)
    rounded = blocks.reshape(len(raw), -1).astype(np.float64) * scale
    center = (exact - rounded).sum(axis=1) * mean
    error = abs(exact).sum(axis=1) * abs(mean) * _WEIGHT_ERROR
    return _Span.around(center, error)


def _blocks(stored: StoredLayer) -> tuple[NDArray[Any], int]:
    """The weight with the network's own groups, and the number of values between them that are not
    zero.
    """
    weight, layer = _raw(stored.weight), stored.layer
    factor = layer.groups // stored.groups
    if factor == 1:
        return weight, 0
    outputs, width = len(weight), weight.shape[1] // factor
    parts = weight.reshape(outputs, factor, width, *weight.shape[2:])
    place = np.arange(outputs) // (outputs // layer.groups) % factor
    blocks = parts[np.arange(outputs), place]
    return blocks, int(np.count_nonzero(weight) - np.count_nonzero(blocks))


def _raw(tensor: Fixed) -> NDArray[Any]:
    return tensor.stored if isinstance(tensor, Dequantized) else tensor.array


def _plain(tensor: Fixed) -> _Doubles:
    return _raw(tensor).astype(np.float64)


def _scalar(value: Value) -> float:
    return float(value.facts["scale"].item())


def _outside(
    name: str,
    what: str,
    stored: _Doubles,
    allowed: _Span,
    unit: str,
    at: NDArray[np.intp] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Iterator[str]:
    """A line if values are not within ``allowed``."""
    # Not a number is never within.
    odd = np.flatnonzero(~((allowed.low <= stored) & (stored <= allowed.high)))
    if not len(odd):
        return
    first = odd[0]
    index = np.unravel_index(first if at is None else at[first], shape or stored.shape)
    place = ", ".join(str(int(part)) for part in index)
    low, high = allowed.low.ravel()[first], allowed.high.ravel()[first]
    ends = f"{low:.9g}" if low == high else f"{low:.9g} to {high:.9g}"
    total = int(np.prod(shape or stored.shape))
    yield (
        f"{name}: {len(odd)} of {total} {what} are not the network's, first [{place}]:"
        f" {stored[first]:.9g}, allowed {ends} ({unit})"
    )
