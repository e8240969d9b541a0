"""The graph that an export of a network must have, derived from its configuration.

Nothing but that graph is accepted: no other operator, order, attribute, shape or element type. What
each precision changes is stated here again, and shares no code with the passes that change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnext.artifact.manifest import REQUESTED, Manifest
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
        dtype: element type of what is not quantized in it.
    """

    layer: Layer
    groups: int
    weight: Fixed
    bias: Fixed
    source: Value | None
    dtype: str


@dataclass(frozen=True)
class Structure:
    """A graph that is that of its network.

    Attributes:
        stored: the layers by name, the classifier first.
        quantized: every quantized tensor.
        dtype: element type of what is not quantized, but for layers that are kept in float32.
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
        self.kept = _kept(manifest)
        self.stored: dict[str, StoredLayer] = {}
        self.quantized: dict[Value, None] = {}
        self.pooled: list[tuple[Value, Value]] = []
        self._check_record()

    def walk(self, output: Value) -> Structure:
        """Check everything that ``output`` is computed from."""
        given = self.manifest.outputs[0].dtype
        value = self._cast(output, self._dtype("fc"), given, "behind the classifier")
        value = self._weighted("fc", value)
        blocks = [
            (f"layer{stage + 1}.{block}", stage > 0 and block == 0)
            for stage, depth in enumerate(self.config.depths)
            for block in range(depth)
        ]
        # What computes the input of each block, and of the classifier.
        writers = ["conv1", *(f"{name}.conv3" for name, _ in blocks)]
        value = self._cast(value, self._dtype(writers[-1]), self._dtype("fc"), "the means")
        value = self._means(value)
        # Its means are of every row: in a scheme for processors, of quantized ones.
        value = self._activation(value, "the last block", writers[-1], ["fc"])
        for (name, strided), writer in reversed([*zip(blocks, writers, strict=False)]):
            value = self._block(value, name, writer, strided)
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
        if unknown := self.kept - self.layers.keys():
            raise OddGraph(f"the manifest keeps {min(unknown)} in float, which is no layer")
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
        if self.scheme is None or name == "fc" or name in self.kept:
            return False
        layer, groups = self.layers[name], self.groups.get(name, self.layers[name].groups)
        least = _FP8_GROUP if groups > 1 else _FP8_CHANNELS
        return self.manifest.precision != "fp8" or layer.inputs // groups >= least

    def _dtype(self, name: str) -> str:
        """Element type that layer ``name`` and what follows it compute in, if not quantized."""
        return "float32" if self.scheme is None and name in self.kept else self.dtype

    def _block(self, raw: Value, name: str, writer: str, strided: bool) -> Value:
        """The raw input of the block whose sum, before any rounding, is ``raw``.

        The sum, and the Relu behind it, compute as the block's last convolution does.

        Args:
            raw: the sum.
            name: of the block.
            writer: the layer whose result, through what follows it, is the input.
            strided: it halves height and width.
        """
        first, second, third = (f"{name}.conv{number}" for number in (1, 2, 3))
        total = self._op(raw, "Add", f"the sum of {name}")
        last, shortcut = total.inputs
        last = self._activation(last, third, third, [], sums=[third], relu=False)
        value = self._weighted(third, last)
        value = self._source(value, second, third)
        value = self._weighted(second, value, stride=2 if strided else 1)
        value = self._source(value, first, second)
        source = self._weighted(first, value)
        projection = f"{name}.downsample.0"
        readers, sums = [first], [third]
        reads = third
        if projection in self.layers:
            shortcut = self._cast(shortcut, self._dtype(projection), self._dtype(third), projection)
            shortcut = self._activation(
                shortcut, projection, projection, [projection], sums=sums, relu=False
            )
            shortcut = self._weighted(projection, shortcut, stride=2 if strided else 1)
            readers, sums, reads = [first, projection], [], projection
        shortcut, source = (
            self._cast(value, self._dtype(writer), self._dtype(reader), f"the input of {reader}")
            for value, reader in ((shortcut, reads), (source, first))
        )
        if shortcut is not source:
            raise OddGraph(
                f"the shortcut of {name} comes from {shortcut.node}, and its first convolution"
                f" reads {source.node}: they must read the same"
            )
        return self._activation(source, f"the input of {first}", writer, readers, sums=sums)

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
            if self._rounded("conv1", []):
                self.pooled += [(value, source) for value in pooled]
            raw = self._activation(source, "conv1", "conv1", [])
        value = self._weighted("conv1", raw, stride=2 if self.config.stem == "imagenet" else 1)
        if self._is_quantized("conv1"):
            value = self._quantized(value, "the input")
        baked = self.manifest.preprocessing_baked
        given = "float32" if baked else self.manifest.inputs[0].dtype
        value = self._cast(value, given, self._dtype("conv1"), "before the stem")
        if baked:
            value = self._preprocessing(value)
        if value is not self.input:
            raise OddGraph(f"the network begins at node {value.node}, and not at its input")

    def _source(self, value: Value, writer: str, name: str) -> Value:
        """What layer ``name``, which reads ``value``, reads before rounding and Relu: the result of
        layer ``writer``.
        """
        what = f"the input of {name}"
        value = self._cast(value, self._dtype(writer), self._dtype(name), what)
        return self._activation(value, what, writer, [name])

    def _cast(self, value: Value, have: str, want: str, what: str) -> Value:
        """What ``value``, of element type ``want``, is cast from: only an island has a border."""
        if have == want:
            return value
        return self._op(value, "Cast", what, to=want).inputs[0]

    def _rounded(self, writer: str, readers: Sequence[str], sums: Sequence[str] = ()) -> bool:
        """Whether a tensor is quantized: because a layer that is quantized reads it, or in a scheme
        for processors, because what writes it or any other that reads it computes in integers.

        Args:
            writer: the layer that it follows.
            readers: the layers that read it.
            sums: the last layer of each block whose sum reads it.
        """
        both = (writer, *sums) if self._everywhere else ()
        return any(self._is_quantized(name) for name in (*readers, *both))

    def _activation(
        self,
        value: Value,
        what: str,
        writer: str,
        readers: Sequence[str],
        *,
        sums: Sequence[str] = (),
        relu: bool = True,
    ) -> Value:
        """What ``value`` is computed from by a Relu and by rounding; the other arguments are as in
        `_rounded`.
        """
        rounded = self._rounded(writer, readers, sums)
        if rounded:
            value = self._quantized(value, what, relu=relu)
        if value.op == "MaxPool":  # of the stem: the Relu is before it
            return value
        # Integers: the Relu is part of the rounding.
        if relu and not (self._everywhere and self._is_quantized(writer)):
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
        dtype = self._dtype(name)
        self._stored(weight, f"the weight of {name}", shape, few_bits, dtype)
        int32 = np.dtype(np.int32) if scheme is not None and scheme.bias else None
        self._stored(bias, f"the bias of {name}", (layer.outputs,), int32, dtype)
        assert weight is not None
        assert bias is not None
        (source,) = value.inputs
        reads = source if source.op == "Quantized" else None
        self.stored[name] = StoredLayer(layer, groups, weight, bias, reads, dtype)
        return source

    def _stored(
        self,
        tensor: Fixed | None,
        what: str,
        shape: tuple[int, ...],
        quantized: np.dtype[Any] | None,
        dtype: str,
    ) -> None:
        if isinstance(tensor, Dequantized):
            found, scale = tensor.stored, tensor.scale
            if found.dtype != quantized:
                raise OddGraph(
                    f"{what} is {found.dtype} with a scale, and {quantized or dtype} in an export"
                )
            if scale.dtype != numpy_dtype(dtype):
                raise OddGraph(f"the scales of {what} are {scale.dtype}, not {dtype}")
            if scale.shape != shape[:1] or not np.isfinite(scale).all() or not (scale > 0).all():
                raise OddGraph(
                    f"{what} has {scale.size} scales, and in an export a positive one for each of"
                    f" {shape[0]} output channels"
                )
            if tensor.zero.any():
                raise OddGraph(f"{what} has zero points other than 0")
        elif isinstance(tensor, Constant):
            found = tensor.array
            if quantized is not None or tensor.widened or found.dtype != numpy_dtype(dtype):
                raise OddGraph(f"{what} is {found.dtype}, and {quantized or dtype} in an export")
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


def _kept(manifest: Manifest) -> frozenset[str]:
    """The layers that the manifest says are kept in a wider type by request."""
    if manifest.quantization is not None:
        left = manifest.quantization.left
        return frozenset(name for name, reason in left if reason == REQUESTED)
    return frozenset() if manifest.kept is None else frozenset(manifest.kept.layers)


def _spec(name: str, dtype: str, shape: tuple[int | None, ...]) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _listed(specs: Sequence[TensorSpec] | Any) -> str:
    return ", ".join(
        f"{spec.name} {spec.dtype} {'x'.join('N' if n is None else str(n) for n in spec.shape)}"
        for spec in specs
    )
