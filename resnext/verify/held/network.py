"""The graph that an export of a network must have, derived from its configuration.

Nothing but that graph is accepted: no other operator, order, attribute, shape or element type. What
each precision changes is stated here again, and shares no code with the passes that change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import TensorSpec, numpy_dtype
from resnext.network.layers import Layer, layers
from resnext.precision import PRECISIONS

from .graph import Constant, Dequantized, Fixed, Graph, OddGraph, Value

#: TensorRT multiplies narrower convolutions in the surrounding type: channels of a group, and of a
#: convolution with one group.
_FP8_GROUP, _FP8_CHANNELS = 32, 16


@dataclass(frozen=True)
class Scheme:
    """Where a quantized graph of one precision and runtime has Q/DQ pairs, and their types.

    Attributes:
        weight: element type of weights.
        activation: element type of activations.
        bias: biases are int32; else floating-point.
        everywhere: every tensor is quantized, and a Relu is part of its rounding; else only what a
            convolution reads, and a shortcut's projection.
        steps: a weight is within -steps and steps times its scale.
    """

    weight: np.dtype[Any]
    activation: np.dtype[Any]
    bias: bool
    everywhere: bool
    steps: float


#: For a processor, 7 bits of weights: without VNNI, two products are added in 16 bits.
_INT8, _FLOAT8 = np.dtype(np.int8), numpy_dtype("float8_e4m3fn")
_PROCESSOR = Scheme(_INT8, np.dtype(np.uint8), bias=True, everywhere=True, steps=64)
_SCHEMES = {
    ("int8", "ort"): _PROCESSOR,
    ("int8", "openvino"): _PROCESSOR,
    ("int8", "trt"): Scheme(_INT8, _INT8, bias=False, everywhere=False, steps=127),
    ("fp8", "trt"): Scheme(_FLOAT8, _FLOAT8, bias=False, everywhere=False, steps=448),
}


@dataclass(frozen=True)
class StoredLayer:
    """A convolution or the classifier as a file stores it.

    Attributes:
        layer: what the network has, before groups are merged.
        groups: number of groups in the file.
        weight: its weight, outputs x inputs of a group x kernel.
        bias: its bias.
        source: the quantized tensor that it reads; None if that is not quantized.
    """

    layer: Layer
    groups: int
    weight: Fixed
    bias: Fixed
    source: Value | None


@dataclass(frozen=True)
class Structure:
    """A graph that is that of its network.

    Attributes:
        stored: the layers by name, the classifier first.
        quantized: every quantized tensor.
        dtype: element type of what is not quantized.
        scheme: how it is quantized, or None.
        pooled: the quantized tensors that must have the scale of the tensor that they are pooled
            from.
        exponents: powers of two that moved channels were divided by, by the layer that writes them.
        means: what corrected biases take for the input of each quantized layer; None if they are as
            in the network.
    """

    stored: dict[str, StoredLayer]
    quantized: tuple[Value, ...]
    dtype: str
    scheme: Scheme | None
    pooled: tuple[tuple[Value, Value], ...]
    exponents: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    means: Mapping[str, float] | None = None


def scheme_of(manifest: Manifest) -> Scheme | None:
    """The scheme that the manifest names; None for a network that is not quantized.

    Raises:
        OddGraph: there is none for that precision and runtime.
    """
    record = manifest.quantization
    if record is None:
        return None
    try:
        return _SCHEMES[manifest.precision, record.runtime]
    except KeyError:
        raise OddGraph(f"no export is {manifest.precision} for {record.runtime}") from None


def structure_of(graph: Graph, manifest: Manifest) -> Structure:
    """Compare ``graph`` with the network of ``manifest``.

    Raises:
        OddGraph: they differ; names the node or layer, what is there, and what an export has.
    """
    if graph.opset is not None and graph.opset != manifest.opset:
        raise OddGraph(f"its opset is {graph.opset}, and the manifest says {manifest.opset}")
    ends = [
        ("input", manifest.inputs, {n: _spec(n, **v.facts) for n, v in graph.inputs.items()}),
        ("output", manifest.outputs, {n: _spec(n, *o[1:]) for n, o in graph.outputs.items()}),
    ]
    for what, wanted, found in ends:
        if list(found.values()) != list(wanted):
            raise OddGraph(
                f"its {what}s are {_listed(found.values())}, and the manifest says"
                f" {_listed(wanted)}"
            )
    (output,) = (value for value, *_ in graph.outputs.values())
    return _Walk(graph, manifest).walk(output)


class _Walk:
    """A walk through the network, from its output to its input."""

    def __init__(self, graph: Graph, manifest: Manifest) -> None:
        self.config, self.manifest = manifest.network, manifest
        (self.input,) = graph.inputs.values()
        self.layers = {layer.name: layer for layer in layers(self.config)}
        self.scheme = scheme_of(manifest)
        half = PRECISIONS[manifest.precision].lowered_to
        self.dtype = PRECISIONS[half or "fp32"].weight_dtype
        self.groups = {} if manifest.merged is None else dict(manifest.merged.groups)
        self.exponents: dict[str, tuple[int, ...]] = {}
        self.stored: dict[str, StoredLayer] = {}
        self.quantized: dict[Value, None] = {}
        self.pooled: list[tuple[Value, Value]] = []
        self._check_record()

    def walk(self, output: Value) -> Structure:
        """Check everything that ``output`` is computed from."""
        value = output
        if self.manifest.outputs[0].dtype != self.dtype:
            value = self._op(value, "Cast", "behind the classifier", to="float32").inputs[0]
        value = self._means(self._weighted("fc", value))
        # Its means are of every row: in a scheme for processors, of quantized ones.
        value = self._activation(value, "the last block", quantized=self._everywhere)
        for stage, depth in reversed(list(enumerate(self.config.depths))):
            for block in reversed(range(depth)):
                value = self._block(value, f"layer{stage + 1}.{block}", stage > 0 and block == 0)
        self._stem(value)
        return Structure(
            self.stored,
            tuple(self.quantized),
            self.dtype,
            self.scheme,
            tuple(self.pooled),
            self.exponents,
            None if self.manifest.quantization is None else self.manifest.quantization.means,
        )

    @property
    def _everywhere(self) -> bool:
        return self.scheme is not None and self.scheme.everywhere

    def _check_record(self) -> None:
        """The manifest's own words on merged groups, moved channels and layers that are not
        quantized.
        """
        equalized = self.manifest.equalized
        for name, moved in ({} if equalized is None else equalized.exponents).items():
            layer = self.layers.get(name)
            # Only these two write channels that nothing but the next convolution reads.
            inside = name.endswith((".conv1", ".conv2"))
            if layer is None or not inside or not moved or max(moved) >= layer.outputs:
                raise OddGraph(
                    f"the manifest moves channels {sorted(moved)} behind {name}, which no export"
                    " does"
                )
            self.exponents[name] = tuple(moved.get(each, 0) for each in range(layer.outputs))
        for name, groups in self.groups.items():
            layer = self.layers.get(name)
            if layer is None or not 0 < groups < layer.groups or layer.groups % groups:
                raise OddGraph(
                    f"the manifest merges groups of {name} to {groups}, which is no merge"
                )
        if self.scheme is not None:
            left = {name for name in self.layers if not self._is_quantized(name)}
            if odd := left ^ self.manifest.left:
                raise OddGraph(
                    f"the manifest says that {min(odd)} is {'' if min(odd) in left else 'not '}"
                    "quantized, and an export has it otherwise"
                )
            record = self.manifest.quantization
            means = None if record is None else record.means
            if means is not None and (odd := set(means) ^ (self.layers.keys() - left)):
                raise OddGraph(
                    f"the manifest has {'a' if min(odd) in means else 'no'} mean for {min(odd)},"
                    " and an export one for each quantized layer"
                )

    def _is_quantized(self, name: str) -> bool:
        if self.scheme is None or name == "fc":
            return False
        layer, groups = self.layers[name], self.groups.get(name, self.layers[name].groups)
        least = _FP8_GROUP if groups > 1 else _FP8_CHANNELS
        return self.manifest.precision != "fp8" or layer.inputs // groups >= least

    def _block(self, raw: Value, name: str, strided: bool) -> Value:
        """The raw input of the block whose sum, before any rounding, is ``raw``."""
        total = self._op(raw, "Add", f"the sum of {name}")
        last, shortcut = total.inputs
        last = self._activation(last, f"{name}.conv3", quantized=self._everywhere, relu=False)
        value = self._weighted(f"{name}.conv3", last)
        value = self._source(f"{name}.conv3", value)
        value = self._weighted(f"{name}.conv2", value, stride=2 if strided else 1)
        value = self._source(f"{name}.conv2", value)
        source = self._weighted(f"{name}.conv1", value)
        projection = f"{name}.downsample.0"
        if projection in self.layers:
            shortcut = self._activation(
                shortcut, projection, quantized=self.scheme is not None, relu=False
            )
            shortcut = self._weighted(projection, shortcut, stride=2 if strided else 1)
        if shortcut is not source:
            raise OddGraph(
                f"the shortcut of {name} comes from {shortcut.node}, and its first convolution"
                f" reads {source.node}: they must read the same"
            )
        return self._source(f"{name}.conv1", source)

    def _stem(self, raw: Value) -> None:
        if self.config.stem == "imagenet":
            self._op(
                raw,
                "MaxPool",
                "behind the stem",
                kernel=[3, 3],
                strides=[2, 2],
                pads=[1] * 4,
                dilations=[1, 1],
                ceil=False,
            )
            # What is pooled is rounded already: once more changes nothing.
            pooled = [value for value in self.quantized if value.inputs[0] is raw]
            (source,) = raw.inputs
            if self._everywhere:
                self.pooled += [(value, source) for value in pooled]
            raw = self._activation(source, "conv1", quantized=self._everywhere)
        value = self._weighted("conv1", raw, stride=2 if self.config.stem == "imagenet" else 1)
        if self._is_quantized("conv1"):
            value = self._quantized(value, "the input")
        if self.manifest.inputs[0].dtype != self.dtype and self.dtype != "float32":
            value = self._op(value, "Cast", "before the stem", to=self.dtype).inputs[0]
        if self.manifest.preprocessing_baked:
            value = self._preprocessing(value)
        if value is not self.input:
            raise OddGraph(f"the network begins at node {value.node}, and not at its input")

    def _source(self, name: str, value: Value) -> Value:
        """What layer ``name``, which reads ``value``, reads before rounding and Relu."""
        return self._activation(value, f"the input of {name}", quantized=self._is_quantized(name))

    def _activation(self, value: Value, what: str, *, quantized: bool, relu: bool = True) -> Value:
        """What ``value`` is computed from by a Relu and by rounding."""
        if quantized:
            value = self._quantized(value, what, relu=relu)
        if value.op == "MaxPool":  # of the stem: the Relu is before it
            return value
        if relu and not (quantized and self._everywhere):
            value = self._op(value, "Relu", what).inputs[0]
        return value

    def _quantized(self, value: Value, what: str, *, relu: bool = False) -> Value:
        assert self.scheme is not None
        self._op(value, "Quantized", what, dtype=self.scheme.activation.name)
        scale, zero = value.facts["scale"], value.facts["zero"]
        if scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
            raise OddGraph(f"the scale of node {value.node} is not one positive number")
        if scale.dtype != numpy_dtype(self.dtype):
            raise OddGraph(f"the scale of node {value.node} is {scale.dtype}, not {self.dtype}")
        if (self.scheme.activation != np.uint8 or (relu and self._everywhere)) and zero.any():
            raise OddGraph(
                f"the zero point of node {value.node} ({what}) is {zero.item()}, and 0 in an export"
            )
        self.quantized[value] = None
        return value.inputs[0]

    def _weighted(self, name: str, value: Value, *, stride: int = 1) -> Value:
        """What layer ``name``, which computes ``value``, reads."""
        layer = self.layers[name]
        groups = self.groups.get(name, layer.groups)
        shape: tuple[int, ...] = (layer.outputs, layer.inputs // groups)
        if name == "fc":
            self._op(value, "Gemm", name, alpha=1.0, transposed=True)
        else:
            shape += (layer.kernel, layer.kernel)
            self._op(
                value,
                "Conv",
                name,
                strides=[stride] * 2,
                pads=[layer.kernel // 2] * 4,
                dilations=[1, 1],
                groups=groups,
            )
        weight, bias = value.fixed
        quantized = self._is_quantized(name)
        scheme = self.scheme if quantized else None
        few_bits = None if scheme is None else scheme.weight
        self._stored(weight, f"the weight of {name}", shape, few_bits)
        int32 = np.dtype(np.int32) if scheme is not None and scheme.bias else None
        self._stored(bias, f"the bias of {name}", (layer.outputs,), int32)
        assert weight is not None
        assert bias is not None
        (source,) = value.inputs
        reads = source if source.op == "Quantized" else None
        self.stored[name] = StoredLayer(layer, groups, weight, bias, reads)
        return source

    def _stored(
        self,
        tensor: Fixed | None,
        what: str,
        shape: tuple[int, ...],
        quantized: np.dtype[Any] | None,
    ) -> None:
        if isinstance(tensor, Dequantized):
            found, scale = tensor.stored, tensor.scale
            if found.dtype != quantized:
                raise OddGraph(
                    f"{what} is {found.dtype} with a scale, and {quantized or self.dtype} in an"
                    " export"
                )
            if scale.dtype != numpy_dtype(self.dtype):
                raise OddGraph(f"the scales of {what} are {scale.dtype}, not {self.dtype}")
            if scale.shape != shape[:1] or not np.isfinite(scale).all() or not (scale > 0).all():
                raise OddGraph(
                    f"{what} has {scale.size} scales, and in an export a positive one for each of"
                    f" {shape[0]} output channels"
                )
            if tensor.zero.any():
                raise OddGraph(f"{what} has zero points other than 0")
        elif isinstance(tensor, Constant):
            found = tensor.array
            if quantized is not None or tensor.widened or found.dtype != numpy_dtype(self.dtype):
                raise OddGraph(
                    f"{what} is {found.dtype}, and {quantized or self.dtype} in an export"
                )
        else:
            raise OddGraph(f"{what} is missing")
        if found.shape != shape:
            raise OddGraph(f"{what} has shape {found.shape}, and {shape} in an export")

    def _means(self, value: Value) -> Value:
        """The tensor whose means the classifier reads as rows, ``value``."""
        channels, batch = self.layers["fc"].inputs, self.manifest.batch
        self._rows(value, [[-1, channels]], "before the classifier")
        (value,) = value.inputs
        if self.manifest.preprocessing_baked and value.op == "Gather":
            value = self._gathered(value, channels)
        self._op(value, "Mean", "behind the last block", keep=True)
        if sorted(axis % 4 for axis in value.facts["axes"]) != [2, 3]:
            raise OddGraph(
                f"node {value.node} takes means over axes {value.facts['axes']}, and an export over"
                f" 2 and 3 (batch {batch})"
            )
        return value.inputs[0]

    def _rows(self, value: Value, shapes: list[list[int]], what: str) -> None:
        self._op(value, "Reshape", what)
        if self.manifest.batch.static:
            shapes = [*shapes, [self.manifest.batch.min, *shapes[0][1:]]]
        if value.facts["shape"] not in shapes:
            raise OddGraph(
                f"node {value.node} reshapes to {value.facts['shape']}, and to {shapes[0]} in an"
                " export"
            )

    def _gathered(self, value: Value, channels: int) -> Value:
        """The means that ``value`` reads by index, each in its place: they were channels last."""
        index = value.inputs[1] if len(value.inputs) > 1 else value.fixed[0]
        flat = np.arange(channels).reshape(1, channels, 1, 1)
        if isinstance(index, Value):
            first = index.op == "Rows" and index.inputs == (self.input,)
            right = first and index.facts["factor"] == channels
            right = right and np.array_equal(index.facts["offset"], flat)
        else:
            rows = self.manifest.batch.min
            whole = np.arange(rows * channels).reshape(rows, channels, 1, 1)
            right = self.manifest.batch.static and isinstance(index, Constant)
            right = right and np.array_equal(index.array, whole)  # type: ignore[union-attr]
        if value.facts["axis"] or not right:
            raise OddGraph(f"node {value.node} moves means from one row or channel to another")
        source = value.inputs[0]
        self._op(source, "Reshape", "the means", shape=[-1])
        return source.inputs[0]

    def _preprocessing(self, value: Value) -> Value:
        value = self._op(value, "Transpose", "the pixels", order=[0, 3, 1, 2]).inputs[0]
        declared = self.manifest.prepared
        for op, wanted in (("Divide", declared.std), ("Subtract", declared.mean), ("Divide", 255)):
            self._op(value, op, "the preprocessing")
            (by,) = value.fixed
            numbers = np.asarray(wanted, np.float32).ravel()
            array = by.array if isinstance(by, Constant) else np.empty(0)
            # One for each channel, which is the last dimension, and not for each row.
            if (
                not np.array_equal(array.ravel(), numbers)
                or array.shape[-1:] not in ((), numbers.shape)
                or array.ndim > 4
            ):
                raise OddGraph(
                    f"node {value.node} normalizes pixels by other numbers than the manifest's"
                    f" {wanted}"
                )
            (value,) = value.inputs
        return self._op(value, "Cast", "the pixels", to="float32").inputs[0]

    def _op(self, value: Value, op: str, what: str, **facts: Any) -> Value:
        if value.op != op:
            raise OddGraph(f"node {value.node} is a {value.op}, and an export has a {op} ({what})")
        for name, wanted in facts.items():
            if value.facts[name] != wanted:
                raise OddGraph(
                    f"{name} of node {value.node} ({what}) is {value.facts[name]}, and {wanted} in"
                    " an export"
                )
        return value


def _spec(name: str, dtype: str, shape: tuple[int | None, ...]) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _listed(specs: Sequence[TensorSpec] | Any) -> str:
    return ", ".join(
        f"{spec.name} {spec.dtype} {'x'.join('N' if n is None else str(n) for n in spec.shape)}"
        for spec in specs
    )
