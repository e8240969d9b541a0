"""Faults that logits do not show, each planted into a file whose manifest is sealed again, as a
careless tool would.

A row names the artifact, the check that must refuse it, and what its message must name. All of them
passed export's check, ``resnext-parity`` or the benchmark when only logits were compared, or are of
the same kind. The faults of `test_planted_faults` are planted into the network; these into the
file.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exported import derive_onnx, export_onnx, export_openvino, seeded_resnext50
from fakes.package import facts_of, record_here, sealed, write_package
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.records import PackageLayer
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, GateFailed
from resnext.network.config import ResNeXtConfig
from resnext.readers.files import file_sha256
from resnext.runtimes.trt.identity import engine_name
from resnext.verify.check import check
from resnext.verify.held.artifact import check_graph, differences, refuse_other_weights
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_bench import benchmark
from resnext_export import export
from resnext_export.convert import onnx_from_torch
from resnext_export.convert.openvino_from_onnx import _packed
from resnext_export.request import ExportRequest

#: Which check must name a fault: the graph, the stored weights and scales, or the facts that file
#: and manifest both state.
Check: TypeAlias = Literal["graph", "weights", "facts"]
Edit: TypeAlias = Callable[[onnx.ModelProto], None]
IrEdit: TypeAlias = Callable[[str, bytearray], str]

#: The smallest network with a pooled stem and an identity shortcut.
POOLED = ResNeXtConfig(
    (2, 1), 2, 16, (32, 32), in_channels=3, num_classes=10, stem="imagenet", stem_channels=16
)
#: Every artifact that faults are planted into: weights, and how the plain export becomes it.
FORMS: dict[str, tuple[str, ExportRequest | None]] = {
    "fp32": ("digits", None),
    "fp16": ("digits", ExportRequest(precision="fp16")),
    "bf16": ("digits", ExportRequest(precision="bf16")),
    "int8": ("digits", ExportRequest(precision="int8", runtime="ort")),
    "int8-openvino": ("digits", ExportRequest(precision="int8", runtime="openvino")),
    "int8-trt": ("digits", ExportRequest(precision="int8", runtime="trt")),
    "fp8": ("digits", ExportRequest(precision="fp8", merge_groups=32)),
    "merged": ("digits", ExportRequest(merge_groups=16)),
    "int8-merged": ("digits", ExportRequest(precision="int8", runtime="ort", merge_groups=16)),
    "baked": ("digits-baked", None),
    "pooled": ("pooled", None),
    "pooled-int8": (
        "pooled",
        ExportRequest(precision="int8", runtime="ort", calibration="random", calibration_images=8),
    ),
}


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        form: the artifact that it is planted into.
        edit: plants it.
        by: the check that must name it.
        says: what the message must contain, a regular expression.
    """

    form: str
    edit: Edit
    by: Check
    says: str


# ---- how a file is edited


def tensor(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(each for each in proto.graph.initializer if each.name == name)
    return found


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in proto.graph.node if each.name == name)
    return found


def changed(name: str, change: Callable[[NDArray[Any]], Any]) -> Edit:
    """Another value of a stored tensor, in the type that it has."""

    def edit(proto: onnx.ModelProto) -> None:
        stored = tensor(proto, name)
        old = numpy_helper.to_array(stored)
        new = np.asarray(change(old.copy())).astype(old.dtype)
        stored.CopyFrom(numpy_helper.from_array(new, name))

    return edit


def at(index: tuple[int, ...], change: Callable[[Any], Any]) -> Callable[[NDArray[Any]], Any]:
    """A change of one value."""

    def apply(array: NDArray[Any]) -> NDArray[Any]:
        array[index] = change(array[index])
        return array

    return apply


def channel(index: int, factor: float) -> Callable[[NDArray[Any]], Any]:
    """A change of one output channel."""

    def apply(array: NDArray[Any]) -> NDArray[Any]:
        array[index] = (array[index].astype(np.float32) * factor).astype(array.dtype)
        return array

    return apply


def every_weight(change: Callable[[NDArray[Any]], Any]) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        for name in [each.name for each in proto.graph.initializer if "weight" in each.name]:
            changed(name, change)(proto)

    return edit


def mantissa(bits: int) -> Callable[[NDArray[Any]], Any]:
    """Values rounded to so many bits after the leading one."""

    def apply(array: NDArray[Any]) -> NDArray[np.float32]:
        fraction, exponent = np.frexp(array.astype(np.float32))
        return np.ldexp(np.round(fraction * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)

    return apply


def attribute(name: str, key: str, value: Any) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        owner = node(proto, name)
        for old in [each for each in owner.attribute if each.name == key]:
            owner.attribute.remove(old)
        owner.attribute.append(helper.make_attribute(key, value))

    return edit


def behind(name: str, *nodes: onnx.NodeProto, **constants: Any) -> Edit:
    """Nodes between the node called ``name`` and its readers: the first reads ``x``, the last
    writes ``y``.
    """

    def edit(proto: onnx.ModelProto) -> None:
        owner = node(proto, name)
        old = owner.output[0]
        owner.output[0] = "x"
        place = list(proto.graph.node).index(owner) + 1
        for key, value in constants.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
        for offset, new in enumerate(nodes):
            copied = onnx.NodeProto()
            copied.CopyFrom(new)
            for index, output in enumerate(copied.output):
                copied.output[index] = old if output == "y" else output
            copied.name = copied.name or f"planted_{offset}"
            proto.graph.node.insert(place + offset, copied)

    return edit


def op(kind: str, inputs: list[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def without(name: str) -> Edit:
    """Readers of the node get what it reads."""

    def edit(proto: onnx.ModelProto) -> None:
        gone = node(proto, name)
        for each in proto.graph.node:
            for slot, read in enumerate(each.input):
                if read == gone.output[0]:
                    each.input[slot] = gone.input[0]
        proto.graph.node.remove(gone)

    return edit


def reads(name: str, slot: int, other: str) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        node(proto, name).input[slot] = other

    return edit


def both(*edits: Edit) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        for each in edits:
            each(proto)

    return edit


def numbered(kind: str, index: int, make: Callable[[str], Edit]) -> Edit:
    """An edit of the node with that place among those of its kind."""

    def edit(proto: onnx.ModelProto) -> None:
        names = [each.name for each in proto.graph.node if each.op_type == kind]
        make(names[index])(proto)

    return edit


# ---- faults of single kinds


def in_the_function(proto: onnx.ModelProto) -> None:
    """The first Relu is a local function, which limits what passes."""
    first = next(each for each in proto.graph.node if each.op_type == "Relu")
    first.op_type, first.domain = "Relu", "local"
    body = [helper.make_node("Clip", ["a"], ["b"])]
    proto.functions.append(
        helper.make_function("local", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    )
    proto.opset_import.append(helper.make_opsetid("local", 1))


def in_a_domain(proto: onnx.ModelProto) -> None:
    first = next(each for each in proto.graph.node if each.op_type == "Relu")
    first.op_type, first.domain = "Gelu", "com.microsoft"


def overridden(proto: onnx.ModelProto) -> None:
    """A weight that a caller can replace."""
    bias = tensor(proto, "fc.bias")
    proto.graph.input.append(
        helper.make_tensor_value_info("fc.bias", bias.data_type, list(bias.dims))
    )


def another_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(
        helper.make_tensor_value_info("view", TensorProto.FLOAT, ["batch", 256])
    )


def an_unread_node(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Relu", ["logits"], ["nothing"], "nothing"))


def another_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 21


def an_attribute_twice(proto: onnx.ModelProto) -> None:
    """The right padding last: the first counts for some runtimes."""
    owner = node(proto, "conv1")
    right = next(each for each in owner.attribute if each.name == "pads")
    owner.attribute.append(right)
    right.ints[:] = [0, 0, 2, 2]


def an_output_twice(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(proto.graph.output[0])


def a_mean_for_each_row(proto: onnx.ModelProto) -> None:
    """The same numbers, broadcast along another dimension."""
    mean = tensor(proto, "mean")
    mean.dims[:] = [*mean.dims, 1, 1, 1, 1]


def two_tensors_of_a_name(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(10, np.float32), "fc.bias"))


def outside_the_file(proto: onnx.ModelProto) -> None:
    bias = tensor(proto, "fc.bias")
    bias.data_location = TensorProto.EXTERNAL
    bias.external_data.add(key="location", value="elsewhere.bin")


def transposed_classifier(proto: onnx.ModelProto) -> None:
    """transB is off, and the weight is stored to fit, but in another order."""
    changed("fc.weight", lambda array: array)(proto)
    stored = tensor(proto, "fc.weight")
    array = numpy_helper.to_array(stored)
    stored.CopyFrom(numpy_helper.from_array(array.reshape(array.shape[::-1]), "fc.weight"))
    attribute("fc", "transB", 0)(proto)


def one_scale_for_all(proto: onnx.ModelProto) -> None:
    """A layer's channels share their largest scale; the weights are quantized again to fit."""
    name = "layer2.0.conv1.weight"
    scales = numpy_helper.to_array(tensor(proto, f"{name}_scale"))
    stored = numpy_helper.to_array(tensor(proto, f"{name}_quantized")).astype(np.float64)
    values = stored * scales.reshape(-1, 1, 1, 1)
    changed(f"{name}_scale", lambda array: np.full_like(array, scales.max()))(proto)
    changed(f"{name}_quantized", lambda _: np.rint(values / scales.max()))(proto)


def eight_bits(proto: onnx.ModelProto) -> None:
    """A layer uses all 8 bits: better on this processor, wrong on one that adds in 16 bits."""
    name = "layer2.0.conv1.weight"
    stored = numpy_helper.to_array(tensor(proto, f"{name}_quantized")).astype(np.float64)
    changed(f"{name}_scale", lambda array: array * (64 / 127))(proto)
    changed(f"{name}_bias_quantized_scale", lambda array: array * (64 / 127))(proto)
    changed(f"{name}_quantized", lambda _: np.clip(np.rint(stored * 127 / 64), -127, 127))(proto)


def per_tensor(proto: onnx.ModelProto) -> None:
    """One scale in place of one for each channel."""
    name = "layer2.0.conv1.weight"
    for part in ("scale", "zero_point"):
        stored = tensor(proto, f"{name}_{part}")
        array = numpy_helper.to_array(stored)
        stored.CopyFrom(numpy_helper.from_array(array.max().reshape(()), stored.name))


def scale_of_the_first_q(factor: float) -> Edit:
    return changed("relu_1_scale", lambda array: array * factor)


def only_q(proto: onnx.ModelProto) -> None:
    """A Q whose DQ has another scale."""
    scale = numpy_helper.to_array(tensor(proto, "relu_1_scale"))
    proto.graph.initializer.append(numpy_helper.from_array(scale * np.float32(1.01), "other"))
    node(proto, "relu_1_QuantizeLinear").input[1] = "other"


def batch_norm_in_training_mode(proto: onnx.ModelProto) -> None:
    """The stem's output is normalized by the batch that it is in."""
    outputs = ("y", "mean", "variance")
    norm = helper.make_node(
        "BatchNormalization", ["x", "s", "b", "b", "s"], outputs, training_mode=1
    )
    ones = np.ones(16, np.float32)
    behind("conv1", norm, s=ones, b=ones * 0)(proto)


def a_branch(proto: onnx.ModelProto) -> None:
    """Other logits for more than seven rows."""
    taken = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    branch = helper.make_node("If", ["few"], ["y"], then_branch=taken, else_branch=other)
    behind("fc", branch, few=np.array(True))(proto)


_F = np.float32
FLOAT32 = {
    # the batch: rows beyond the seventh, neighbors, statistics
    "row 0 over the last row if there are more than 7": Row(
        "fp32",
        behind("fc", op("Shape", ["x"], "n"), op("Where", ["n", "x", "x"])),
        "graph",
        "planted_1 is a Where",
    ),
    "rows reversed": Row(
        "fp32",
        behind("fc", op("ReverseSequence", ["x", "n"], batch_axis=1, time_axis=0), n=[7] * 10),
        "graph",
        "is a ReverseSequence",
    ),
    "rows gathered in another order": Row(
        "fp32",
        behind("fc", op("Gather", ["x", "order"], axis=0), order=[1, 0, 2]),
        "graph",
        "planted_0 is a Gather",
    ),
    "the mean of the batch subtracted": Row(
        "fp32",
        behind(
            "fc",
            op("ReduceMean", ["x", "zero"], "mean_row", keepdims=1),
            op("Sub", ["x", "mean_row"]),
            zero=[0],
        ),
        "graph",
        "a weight or bias of node planted_1 is computed",
    ),
    "a reshape that is right for 7 rows at most": Row(
        "fp32",
        numbered("Reshape", 0, lambda name: reads(name, 1, "seven")),
        "graph",
        "reads 'seven', which nothing before it writes",
    ),
    "a reshape to the wrong rows": Row(
        "fp32", changed("val_154", lambda _: [1, -1]), "graph", r"reshapes to \[1, -1\]"
    ),
    "a neighbor leaks": Row(
        "fp32",
        behind("fc", op("MatMul", ["m", "x"]), m=np.eye(7, dtype=_F) + _F(3e-5)),
        "graph",
        "is a MatMul",
    ),
    "rows rolled": Row(
        "fp32",
        behind("fc", op("Concat", ["x", "x"], axis=0)),
        "graph",
        "is a Concat",
    ),
    "a layer norm over the batch": Row(
        "fp32",
        behind("fc", op("LayerNormalization", ["x", "s"], axis=0), s=np.ones(10, _F)),
        "graph",
        "is a LayerNormalization",
    ),
    # inputs that seeded pixels do not reach
    "NaN if an input is large": Row(
        "fp32", behind("fc", op("Log", ["x"])), "graph", "is a Log, and no export has that"
    ),
    "logits clipped at 50": Row(
        "fp32",
        behind("fc", op("Clip", ["x", "", "most"]), most=_F(50)),
        "graph",
        "is a Clip, and no export has that",
    ),
    "a Relu clipped at 100": Row(
        "fp32",
        numbered("Relu", 3, lambda name: behind(name, op("Min", ["x", "most"]), most=_F(100))),
        "graph",
        "is a Min, and no export has that",
    ),
    # chance
    "dropout": Row(
        "fp32",
        behind("node_mean", op("Dropout", ["x", "rate"]), rate=_F(1e-3)),
        "graph",
        "is a Dropout",
    ),
    "noise": Row(
        "fp32",
        behind(
            "fc",
            op("RandomNormalLike", ["x"], "noise", scale=1e-5),
            op("Add", ["x", "noise"]),
        ),
        "graph",
        "is a RandomNormalLike",
    ),
    "Bernoulli": Row("fp32", behind("fc", op("Bernoulli", ["x"])), "graph", "is a Bernoulli"),
    # weights
    "one weight times 1.02": Row(
        "fp32",
        changed("layer2.0.conv2.weight", at((5, 3, 1, 1), lambda value: value * 1.02)),
        "weights",
        r"layer2.0.conv2: 1 of 4608 weights are not the network's, first \[5, 3, 1, 1\]",
    ),
    "one weight 100 units in the last place off": Row(
        "fp32",
        changed("conv1.weight", at((2, 0, 1, 1), lambda value: value * (1 + 100 * 2.0**-23))),
        "weights",
        "conv1: 1 of 144 weights",
    ),
    "one logit shifted by 3e-4": Row(
        "fp32",
        changed("fc.bias", at((4,), lambda value: value + 3e-4)),
        "weights",
        r"fc: 1 of 10 biases are not the network's, first \[4\]",
    ),
    "two classes swapped": Row(
        "fp32",
        changed("fc.weight", lambda array: array[[1, 0, *range(2, 10)]]),
        "weights",
        "fc: 512 of 2560 weights",
    ),
    "a weight that is not a number": Row(
        "fp32",
        changed("layer1.0.conv3.weight", at((0, 0, 0, 0), lambda _: np.nan)),
        "weights",
        "layer1.0.conv3: 1 of 2048 weights.*nan",
    ),
    "the sign of a bias": Row(
        "fp32",
        changed("layer3.0.conv1.weight_bias", at((9,), lambda value: -value)),
        "weights",
        "layer3.0.conv1: 1 of 128 biases",
    ),
    # attributes
    "a stride moved to the 1x1": Row(
        "fp32", attribute("layer2.0.conv1", "strides", [2, 2]), "graph", "strides of node layer2"
    ),
    "dilations": Row(
        "fp32",
        attribute("layer1.0.conv2", "dilations", [2, 2]),
        "graph",
        "dilations of node layer1",
    ),
    "padding at one side": Row(
        "fp32", attribute("conv1", "pads", [0, 0, 2, 2]), "graph", "pads of node conv1"
    ),
    "padding by auto_pad": Row(
        "fp32", attribute("conv1", "auto_pad", "SAME_UPPER"), "graph", "conv1 pads by auto_pad"
    ),
    "other groups": Row(
        "fp32", attribute("layer1.0.conv2", "group", 4), "graph", "groups of node layer1.0.conv2"
    ),
    "an attribute of a later opset": Row(
        "fp32", attribute("conv1", "round_mode", "up"), "graph", "attribute 'round_mode'"
    ),
    "an attribute twice": Row("fp32", an_attribute_twice, "graph", "has an attribute twice"),
    "a bias left out": Row(
        "fp32",
        lambda proto: node(proto, "fc").input.pop(),
        "graph",
        "the bias of fc is missing|nothing reads",
    ),
    "alpha of the classifier": Row(
        "fp32", attribute("fc", "alpha", 1.001), "graph", "alpha of node fc"
    ),
    "beta of the classifier": Row(
        "fp32", attribute("fc", "beta", 0.999), "graph", "of node fc is 0 and beta 0.999"
    ),
    "a transposed classifier": Row("fp32", transposed_classifier, "graph", "transposed of node fc"),
    "means over another axis": Row(
        "fp32", changed("val_149", lambda _: [1, 2]), "graph", r"over axes \[1, 2\]"
    ),
    "means of a fixed window": Row(
        "fp32",
        lambda proto: _replace(
            proto, "ReduceMean", op("AveragePool", ["relu_9"], kernel_shape=[2, 2])
        ),
        "graph",
        "is a AveragePool",
    ),
    "a maximum in place of the means": Row(
        "fp32",
        lambda proto: _replace(proto, "ReduceMean", op("GlobalMaxPool", ["relu_9"])),
        "graph",
        "is a GlobalMaxPool",
    ),
    "softmax along the batch": Row(
        "fp32", behind("fc", op("Softmax", ["x"], axis=0)), "graph", "is a Softmax"
    ),
    "flattened along another axis": Row(
        "fp32",
        lambda proto: _replace(proto, "Reshape", op("Flatten", ["mean"], axis=0)),
        "graph",
        "is a Flatten",
    ),
    "the stem's pool pads less": Row(
        "pooled",
        numbered("MaxPool", 0, lambda name: attribute(name, "pads", [0, 0, 1, 1])),
        "graph",
        "pads of node .*behind the stem",
    ),
    "the stem's pool rounds up": Row(
        "pooled",
        numbered("MaxPool", 0, lambda name: attribute(name, "ceil_mode", 1)),
        "graph",
        "ceil of node",
    ),
    "the stem's pool is narrower": Row(
        "pooled",
        numbered("MaxPool", 0, lambda name: attribute(name, "kernel_shape", [2, 2])),
        "graph",
        "kernel of node",
    ),
    "the stem's pool pads with zeros": Row(
        "pooled",
        numbered(
            "Relu",
            0,
            lambda name: behind(name, op("Pad", ["x", "by"]), by=[0, 0, 1, 1, 0, 0, 1, 1]),
        ),
        "graph",
        "is a Pad",
    ),
    # operators and their order
    "a Relu dropped": Row(
        "fp32", numbered("Relu", 4, without), "graph", "is a Conv, and an export has a Relu"
    ),
    "a Relu twice": Row(
        "fp32",
        behind("layer1.0.conv3", op("Relu", ["x"])),
        "graph",
        "is a Relu, and an export has a Conv",
    ),
    "a shortcut lost": Row(
        "fp32",
        numbered("Add", 1, lambda name: reads(name, 1, "getitem_24")),
        "graph",
        "of node getitem|nothing reads|of layer2.0",
    ),
    "a shortcut from elsewhere": Row(
        "pooled",
        numbered("Add", 1, lambda name: reads(name, 1, "relu")),
        "graph",
        "the shortcut of layer1.1 comes from",
    ),
    "another activation": Row(
        "fp32",
        lambda proto: setattr(
            next(n for n in proto.graph.node if n.op_type == "Relu"), "op_type", "Elu"
        ),
        "graph",
        "is a Elu",
    ),
    "batch norm in training mode": Row(
        "fp32", batch_norm_in_training_mode, "graph", "is a BatchNormalization"
    ),
    "a branch on the batch": Row("fp32", a_branch, "graph", "is a If"),
    "a local function": Row("fp32", in_the_function, "graph", "has the local function"),
    "a custom domain": Row(
        "fp32", in_a_domain, "graph", "is an operator of another domain, .com.microsoft"
    ),
    # the file
    "a weight that a caller can replace": Row(
        "fp32", overridden, "graph", "'fc.bias' is written twice"
    ),
    "another output": Row("fp32", another_output, "graph", "its outputs are logits"),
    "an output twice": Row("fp32", an_output_twice, "graph", "two outputs have the name logits"),
    "a node that nothing reads": Row("fp32", an_unread_node, "graph", "nothing reads node nothing"),
    "another opset": Row("fp32", another_opset, "graph", "its opset is 21"),
    "two tensors of a name": Row("fp32", two_tensors_of_a_name, "graph", "is written twice"),
    "a tensor outside the file": Row("fp32", outside_the_file, "graph", "are in another file"),
    # baked preprocessing
    "another mean": Row(
        "baked", changed("mean", lambda array: array + 0.001), "graph", "by other numbers"
    ),
    "a mean for each row": Row("baked", a_mean_for_each_row, "graph", "by other numbers"),
    "divided by 256": Row(
        "baked", changed("scalar_tensor_default", lambda _: 256), "graph", "by other numbers"
    ),
    "height and width swapped": Row(
        "baked", attribute("node_permute", "perm", [0, 3, 2, 1]), "graph", "order of node"
    ),
    "channels gathered in another order": Row(
        "baked", changed("val_172", lambda array: array[:, ::-1]), "graph", "moves means"
    ),
    # merged groups
    "weights between merged groups": Row(
        "merged",
        changed("layer1.0.conv2.weight", at((0, 9, 0, 0), lambda _: 1e-3)),
        "weights",
        "layer1.0.conv2: 1 weights between the merged groups are not zero",
    ),
    "merged groups in another order": Row(
        "merged",
        changed("layer1.0.conv2.weight", lambda array: np.roll(array, 4, axis=0)),
        "weights",
        "layer1.0.conv2",
    ),
}

LOWER = {
    "fp16: the sign of a classifier weight": Row(
        "fp16",
        changed("fc.weight", at((3, 7), lambda value: -value)),
        "weights",
        r"fc: 1 of 2560 weights are not the network's, first \[3, 7\].*\(float16\)",
    ),
    "fp16: a channel times 1.02": Row(
        "fp16",
        changed("layer1.0.conv1.weight", channel(3, 1.02)),
        "weights",
        "layer1.0.conv1: 1[0-9] of 512 weights",
    ),
    "fp16: weights rounded to bf16": Row(
        "fp16",
        every_weight(lambda array: array.astype(np.float32).astype(ml_dtypes.bfloat16)),
        "weights",
        "weights are not the network's",
    ),
    "fp16: a layer rounded to 5 bits of mantissa": Row(
        "fp16", changed("layer3.0.conv1.weight", mantissa(5)), "weights", "layer3.0.conv1: "
    ),
    "fp16: a weight one unit in the last place off": Row(
        "fp16",
        changed("layer2.0.conv3.weight", at((1, 1, 0, 0), lambda value: np.nextafter(value, 9))),
        "weights",
        "layer2.0.conv3: 1 of 8192 weights",
    ),
    "fp16: one layer in float32": Row(
        "fp16",
        lambda proto: tensor(proto, "fc.bias").CopyFrom(
            numpy_helper.from_array(np.zeros(10, np.float32), "fc.bias")
        ),
        "graph",
        "the bias of fc is float32, and float16 in an export",
    ),
    "bf16: the classifier's bias zeroed": Row(
        "bf16", changed("fc.bias", lambda array: array * 0), "weights", "fc: .* of 10 biases"
    ),
    "bf16: a channel zeroed": Row(
        "bf16", changed("layer3.0.conv3.weight", channel(9, 0)), "weights", "layer3.0.conv3: 1"
    ),
    "bf16: the sign of a weight": Row(
        "bf16",
        changed("layer2.0.conv2.weight", at((9, 2, 1, 1), lambda value: -value)),
        "weights",
        "layer2.0.conv2: 1 of 4608 weights",
    ),
    "bf16: weights rounded further": Row(
        "bf16", every_weight(mantissa(6)), "weights", "weights are not the network's"
    ),
    "bf16: a neighbor leaks 1 %": Row(
        "bf16",
        behind("fc", op("Mul", ["x", "some"]), some=np.array(0.99)),
        "graph",
        "multiplies something else",
    ),
    "int8: the classifier's bias zeroed": Row(
        "int8", changed("fc.bias", lambda array: array * 0), "weights", "fc: .* of 10 biases"
    ),
    "int8: a classifier weight rounded": Row(
        "int8", changed("fc.weight", mantissa(10)), "weights", "fc: .* of 2560 weights.*float32"
    ),
    "int8: a channel zeroed": Row(
        "int8",
        changed("layer3.0.conv1.weight_quantized", channel(5, 0)),
        "weights",
        "layer3.0.conv1: 1[0-9]* of 16384 weights.*steps of int8",
    ),
    "int8: a weight one step off": Row(
        "int8",
        changed("conv1.weight_quantized", at((1, 0, 0, 0), lambda value: value + 1)),
        "weights",
        "conv1: 1 of 144 weights",
    ),
    "int8: a neighbor leaks 1 %": Row(
        "int8",
        behind("fc", op("Slice", ["x", "one", "two"]), one=[0], two=[1]),
        "graph",
        "is a Slice",
    ),
    "int8: weight scale of a layer times 1.02": Row(
        "int8",
        changed("layer2.0.conv2.weight_scale", lambda array: array * 1.02),
        "weights",
        "layer2.0.conv2: 64 of 64 weight scales",
    ),
    "int8: activation scale times 1.1": Row(
        "int8", scale_of_the_first_q(1.1), "weights", "scale .* calibrated range .* of 'relu_1'"
    ),
    "int8: activation scale halved": Row(
        "int8", scale_of_the_first_q(0.5), "weights", "of 'relu_1' gives"
    ),
    "int8: activation scale times 4": Row(
        "int8", scale_of_the_first_q(4), "weights", "of 'relu_1' gives"
    ),
    "int8: a zero point moved by 1": Row(
        "int8",
        changed("getitem_12_zero_point", lambda array: array + 1),
        "weights",
        "zero point .* of 'getitem_12' gives",
    ),
    "int8: a zero point moved by 4": Row(
        "int8",
        changed("input_zero_point", lambda array: array + 4),
        "weights",
        "zero point .* of 'input' gives",
    ),
    "int8: a Relu's zero point moved by 1": Row(
        "int8",
        changed("relu_2_zero_point", lambda array: array + 1),
        "graph",
        "the zero point of node relu_2_DequantizeLinear",
    ),
    "int8: one bias value zeroed": Row(
        "int8",
        changed("layer2.0.conv1.weight_bias_quantized", at((17,), lambda _: 0)),
        "weights",
        r"layer2.0.conv1: 1 of 64 biases are not the network's, first \[17\].*steps of int32",
    ),
    "int8: bias scale of a layer": Row(
        "int8",
        changed("layer2.0.conv1.weight_bias_quantized_scale", lambda array: array * 1.01),
        "weights",
        "layer2.0.conv1: 64 of 64 scales of biases",
    ),
    "int8: one scale for all channels": Row(
        "int8", one_scale_for_all, "weights", "layer2.0.conv1: .* weight scales"
    ),
    "int8: a scale per tensor": Row(
        "int8", per_tensor, "graph", "the weight of layer2.0.conv1 has 1 scales"
    ),
    "int8: 8 bits where 7 are safe": Row(
        "int8", eight_bits, "weights", "layer2.0.conv1: 64 of 64 weight scales"
    ),
    "int8: scales along another axis": Row(
        "int8",
        attribute("layer1.0.conv3.weight_DequantizeLinear", "axis", 1),
        "graph",
        "scales a weight along axis 1",
    ),
    "int8: Q and DQ have other scales": Row(
        "int8", only_q, "graph", "has another scale or zero point than relu_1_QuantizeLinear"
    ),
    "int8: a weight's zero point": Row(
        "int8",
        changed("conv1.weight_zero_point", at((3,), lambda _: 1)),
        "graph",
        "the weight of conv1 has zero points other than 0",
    ),
    "int8: a tensor that is not quantized": Row(
        "int8",
        reads("layer1.0.conv3", 0, "relu_2"),
        "graph",
        "is a Conv, and an export has a Quantized|nothing reads",
    ),
    "int8: the scales of two tensors swapped": Row(
        "int8",
        lambda proto: _swap(proto, "relu_1_scale", "relu_2_scale"),
        "weights",
        "of 'relu_[12]' gives",
    ),
    "int8: a pooled tensor with another scale": Row(
        "pooled-int8",
        lambda proto: _another_pooled_scale(proto),
        "weights",
        "pooling keeps those of its input",
    ),
    "int8 merged: weights between groups": Row(
        "int8-merged",
        changed("layer1.0.conv2.weight_quantized", at((0, 9, 0, 0), lambda _: 1)),
        "weights",
        "between the merged groups",
    ),
    "int8 for OpenVINO: a bias value zeroed": Row(
        "int8-openvino",
        changed("conv1.weight_bias_quantized", at((2,), lambda _: 0)),
        "weights",
        "conv1: 1 of 16 biases",
    ),
    "int8 for TensorRT: an activation scale halved": Row(
        "int8-trt", scale_of_the_first_q(0.5), "weights", "of 'relu_1' gives"
    ),
    "int8 for TensorRT: a zero point": Row(
        "int8-trt",
        changed("relu_1_zero_point", lambda array: array + 1),
        "graph",
        "the zero point of node relu_1_DequantizeLinear",
    ),
    "fp8: a weight one step off": Row(
        "fp8",
        changed("layer2.0.conv1.weight_quantized", at((0, 0, 0, 0), lambda value: -value)),
        "weights",
        "layer2.0.conv1: 1 of 4096 weights.*steps of float8",
    ),
    "fp8: an activation scale doubled": Row(
        "fp8", scale_of_the_first_q(2), "weights", "of 'relu_1' gives"
    ),
    "fp8: a weight scale doubled": Row(
        "fp8",
        changed("layer3.0.conv3.weight_scale", at((5,), lambda value: value * 2)),
        "weights",
        "layer3.0.conv3: 1 of 256 weight scales",
    ),
}

FAULTS = FLOAT32 | LOWER


def _replace(proto: onnx.ModelProto, kind: str, new: onnx.NodeProto) -> None:
    index, old = next((i, n) for i, n in enumerate(proto.graph.node) if n.op_type == kind)
    copied = onnx.NodeProto()
    copied.CopyFrom(new)
    copied.output[0] = old.output[0]
    proto.graph.node.remove(old)
    proto.graph.node.insert(index, copied)


def _swap(proto: onnx.ModelProto, first: str, second: str) -> None:
    one, two = (numpy_helper.to_array(tensor(proto, name)) for name in (first, second))
    changed(first, lambda _: two)(proto)
    changed(second, lambda _: one)(proto)


def _another_pooled_scale(proto: onnx.ModelProto) -> None:
    """A pooled tensor gets a scale of its own."""
    pool = next(each for each in proto.graph.node if each.op_type == "MaxPool")
    quantize = next(each for each in proto.graph.node if pool.output[0] in each.input)
    other = numpy_helper.to_array(tensor(proto, quantize.input[1])) * np.float32(1.5)
    proto.graph.initializer.append(numpy_helper.from_array(other, "own_scale"))
    for each in proto.graph.node:
        if each is quantize or quantize.output[0] in each.input:
            each.input[1] = "own_scale"


# ---- artifacts to plant into


@dataclass(frozen=True)
class Forms:
    """Every artifact of `FORMS`, made once and never changed."""

    folder: Path
    made: dict[str, tuple[Artifact, Weights]]

    def __getitem__(self, name: str) -> tuple[Artifact, Weights]:
        if name not in self.made:
            base, request = FORMS[name]
            plain, weights = self._plain(base)
            artifact = plain
            if request is not None:
                artifact = derive_onnx(plain, weights, self.folder / name, request, check=False)
            self.made[name] = (artifact, weights)
        return self.made[name]

    def _plain(self, base: str) -> tuple[Artifact, Weights]:
        if f"plain {base}" not in self.made:
            pooled = base == "pooled"
            weights = load_weights("seeded", POOLED) if pooled else load_weights("digits")
            artifact = export_onnx(
                weights,
                self.folder / f"plain-{base}",
                bake_preprocessing=base.endswith("baked"),
                check=False,
            )
            self.made[f"plain {base}"] = (artifact, weights)
        return self.made[f"plain {base}"]


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return Forms(tmp_path_factory.mktemp("forms"), {})


def resealed(artifact: Artifact, folder: Path, data: bytes, **changes: Any) -> Artifact:
    """A copy whose file has other bytes, which its manifest is made to fit."""
    shutil.copytree(artifact.directory, folder)
    path = folder / artifact.manifest.file
    path.write_bytes(data)
    manifest = json.loads(artifact.manifest.to_json()) | changes
    manifest |= {"file_sha256": file_sha256(path), "file_size_bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(folder)


def planted(artifact: Artifact, folder: Path, edit: Edit) -> Artifact:
    proto = onnx.load(artifact.path)
    edit(proto)
    return resealed(artifact, folder, proto.SerializeToString())


def named(artifact: Artifact, weights: Weights, by: Check) -> str:
    """What the check ``by`` says of ``artifact``; the checks before it must say nothing."""
    if by != "weights":
        with pytest.raises(BadArtifact) as refused:
            check_graph(artifact)
        return str(refused.value)
    check_graph(artifact)
    return "; ".join(differences(artifact, weights))


# ---- ONNX


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_file_has_nothing_to_name(form: str, forms: Forms) -> None:
    artifact, weights = forms[form]
    refuse_other_weights(artifact, weights)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, forms: Forms, tmp_path: Path) -> None:
    row = FAULTS[fault]
    artifact, weights = forms[row.form]
    said = named(planted(artifact, tmp_path / "planted", row.edit), weights, row.by)
    assert re.search(row.says, said), said


def test_a_batch_norm_epsilon_that_is_nearly_right_is_named(
    forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epsilon 2e-5 instead of 1e-5."""
    weights = forms["fp32"][1]

    def other_epsilon(given: Weights) -> Any:
        model = load_model(given)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 2e-5
        return model

    monkeypatch.setattr(onnx_from_torch, "load_model", other_epsilon)
    artifact = export_onnx(weights, tmp_path / "artifact", check=False)
    with pytest.raises(GateFailed, match=r"weights are not the network's"):
        refuse_other_weights(artifact, weights)


# ---- manifests


def test_the_manifest_of_another_scheme_is_refused(forms: Forms, tmp_path: Path) -> None:
    """Both graphs have the same layout, so only what is written in the file can tell."""
    (ort, _), (openvino, _) = forms["int8"], forms["int8-openvino"]
    mixed = resealed(
        openvino,
        tmp_path / "mixed",
        ort.path.read_bytes(),
        **{key: json.loads(openvino.manifest.to_json())[key] for key in ("quantization",)},
    )
    result = CliRunner().invoke(parity, ["--artifact", str(mixed.directory)])
    assert result.exit_code == BadArtifact.exit_code
    assert "does not agree with the file on quantization" in result.output


@pytest.mark.parametrize(
    ("form", "record", "changes", "says"),
    [
        ("int8", "quantization", {"method": "percentile"}, "on quantization"),
        ("int8", "quantization", {"source": "mine"}, "on quantization"),
        ("int8", "quantization", {"images": 7}, "on quantization"),
        ("int8", "quantization", {"left": []}, "on quantization"),
        ("int8", "quantization", {"ranges": None}, "on quantization"),
        ("merged", "merged", {"max_error": 0.5}, "on merged"),
        ("merged", "merged", {"groups": {}}, "on merged"),
        ("fp16", "ranges", {"largest": 1.0}, "on ranges"),
    ],
)
def test_a_record_that_was_changed_in_the_manifest_alone_is_refused(
    form: str, record: str, changes: dict[str, Any], says: str, forms: Forms, tmp_path: Path
) -> None:
    artifact, _ = forms[form]
    old = json.loads(artifact.manifest.to_json())[record]
    other = resealed(
        artifact, tmp_path / "other", artifact.path.read_bytes(), **{record: old | changes}
    )
    with pytest.raises(BadArtifact, match=says):
        check_graph(other)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "resnext101_32x8d"}, "says resnext101_32x8d, which is another network"),
        ({"weights": {"source": "seeded"}}, "on whether the weights are seeded"),
    ],
)
def test_a_label_that_was_changed_in_the_manifest_is_refused(
    changes: dict[str, Any], says: str, forms: Forms, tmp_path: Path
) -> None:
    """The name of the network, and whether it was trained, are in every report."""
    artifact, weights = forms["fp32"]
    if "weights" in changes:
        changes = {"weights": {"sha256": weights.sha256, **changes["weights"]}}
    other = resealed(artifact, tmp_path / "other", artifact.path.read_bytes(), **changes)
    with pytest.raises(BadArtifact, match=says):
        check_graph(other)


def test_a_record_of_merges_that_did_not_happen_is_refused(forms: Forms, tmp_path: Path) -> None:
    """A file of an earlier release states no records; its groups do."""
    artifact, _ = forms["fp32"]
    claimed = {"groups": {"layer1.0.conv2": 2}, "max_error": 0.0}
    other = resealed(artifact, tmp_path / "other", artifact.path.read_bytes(), merged=claimed)
    with pytest.raises(BadArtifact, match=r"groups of node layer1.0.conv2 .* is 8, and 2"):
        check_graph(other)


# ---- OpenVINO


def ir_planted(artifact: Artifact, folder: Path, edit: IrEdit) -> Artifact:
    with zipfile.ZipFile(artifact.path) as packed:
        text, weights = packed.read("model.xml").decode(), bytearray(packed.read("model.bin"))
    text = edit(text, weights)
    return resealed(artifact, folder, _packed(text.encode(), bytes(weights)))


def text_edit(old: str, new: str) -> IrEdit:
    def edit(text: str, _weights: bytearray) -> str:
        assert re.search(old, text), old
        return re.sub(old, new, text, count=1, flags=re.DOTALL)

    return edit


def bytes_edit(name: str, change: Callable[[NDArray[Any]], Any]) -> IrEdit:
    """Another value of the constant called ``name``."""
    types = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "u8": np.uint8, "i32": np.int32}

    def edit(text: str, weights: bytearray) -> str:
        match = re.search(
            rf'name="{re.escape(name)}" type="Const".*?<data element_type="(\w+)"'
            r' shape="([^"]*)" offset="(\d+)" size="(\d+)"',
            text,
            re.DOTALL,
        )
        assert match, name
        kind, shape, offset, size = match.groups()
        start, count = int(offset), int(size)
        dims = [int(part) for part in shape.split(",") if part.strip()]
        array = np.frombuffer(bytes(weights[start : start + count]), types[kind]).reshape(dims)
        new = np.asarray(change(array.copy())).astype(array.dtype)
        weights[start : start + count] = new.tobytes()
        return text

    return edit


IR_FAULTS: dict[str, tuple[str, IrEdit, Check, str]] = {
    "an activation that is limited": (
        "fp32",
        text_edit('type="ReLU"', 'type="Clamp"'),
        "graph",
        "is a Clamp, and no export",
    ),
    "a stride": (
        "fp32",
        text_edit('strides="2, 2"', 'strides="1, 1"'),
        "graph",
        "strides of node layer2.0",
    ),
    "padding": (
        "fp32",
        text_edit('pads_begin="1, 1"', 'pads_begin="0, 0"'),
        "graph",
        "pads of node conv1",
    ),
    "dilations": (
        "fp32",
        text_edit('dilations="1, 1"', 'dilations="2, 2"'),
        "graph",
        "dilations of node conv1",
    ),
    "a transposed classifier": (
        "fp32",
        text_edit('transpose_b="true"', 'transpose_b="false"'),
        "graph",
        "transposed of node",
    ),
    "means that keep no dimensions": (
        "fp32",
        text_edit('keep_dims="true"', 'keep_dims="false"'),
        "graph",
        "keep of node",
    ),
    "chance": (
        "fp32",
        text_edit('type="ReLU" version="opset1"', 'type="RandomUniform" version="opset8"'),
        "graph",
        "is a RandomUniform",
    ),
    "a subgraph": (
        "fp32",
        text_edit('type="ReLU" version="opset1"', 'type="If" version="opset8"'),
        "graph",
        "is a If",
    ),
    "a note that changes how a layer runs": (
        "fp32",
        text_edit('(type="ReLU" version="opset1">)', r"\1<rt_info></rt_info>"),
        "graph",
        "has rt_info",
    ),
    "a note that changes how the graph runs": (
        "fp32",
        text_edit("<framework>", "<runtime_options></runtime_options><framework>"),
        "graph",
        "its metadata has runtime_options",
    ),
    "a note that changes how a tensor is stored": (
        "fp32",
        text_edit("<dim>10</dim>", "<dim>10</dim><rt_info></rt_info>"),
        "graph",
        "has rt_info",
    ),
    "a number that OpenVINO reads otherwise": (
        "fp32",
        text_edit('pads_begin="1, 1"', 'pads_begin="0_1, 0_1"'),
        "graph",
        "conv1/WithoutBiases .Convolution. has other inputs",
    ),
    "two sets of data": (
        "fp32",
        text_edit('(<data strides="1, 1"[^>]*/>)', r'\1<data strides="2, 2" />'),
        "graph",
        "conv1/WithoutBiases .Convolution. has data",
    ),
    "two outputs of a name": (
        "fp32",
        text_edit(
            '(?s)(<layer id=")(\\d+)(" name="logits[^"]*" type="Result".*?</layer>)'
            '(.*?)(<edge from-layer="\\d+" from-port="\\d+" to-layer=")\\2(".*?/>)',
            r"\g<1>9\2\3\1\2\3\4\g<5>9\2\6\5\2\6",
        ),
        "graph",
        "two outputs have the name logits",
    ),
    "an encoding that OpenVINO does not know": (
        "fp32",
        lambda text, _: text.encode("cp037").decode("latin1"),
        "graph",
        "is not a packed OpenVINO IR",
    ),
    "weights of another layer": (
        "fp32",
        lambda text, _: _other_offset(
            text, "layer2.0.conv1.weight_bias", "layer2.0.conv2.weight_bias"
        ),
        "weights",
        "layer2.0.conv1: 64 of 64 biases|layer2.0.conv1: 6[0-9] of 64 biases",
    ),
    "the sign of a weight": (
        "fp32",
        bytes_edit("fc.weight", at((2, 3), lambda value: -value)),
        "weights",
        r"fc: 1 of 2560 weights are not the network's, first \[2, 3\]",
    ),
    "the classifier's bias zeroed": (
        "int8-openvino",
        bytes_edit("fc.bias", lambda array: array * 0),
        "weights",
        "fc: .* of 10 biases",
    ),
    "fp16: a channel times 1.02": (
        "fp16",
        bytes_edit("layer1.0.conv1.weight", channel(3, 1.02)),
        "weights",
        "layer1.0.conv1: .*float16",
    ),
    "int8: a step": (
        "int8-openvino",
        bytes_edit("layer1.0.conv2.weight_quantized", at((3, 1, 1, 1), lambda value: value - 1)),
        "weights",
        "layer1.0.conv2: 1 of 1152 weights",
    ),
    "int8: a scale that only one half of the pair has": (
        "int8-openvino",
        bytes_edit("relu_1_scale", lambda array: array * 1.1),
        "graph",
        "has another scale or zero point",
    ),
    "int8: levels": (
        "int8-openvino",
        text_edit('levels="256"', 'levels="255"'),
        "graph",
        "levels of layer",
    ),
    "int8: a bias value zeroed": (
        "int8-openvino",
        bytes_edit("layer2.0.conv1.weight_bias_quantized", at((17,), lambda _: 0)),
        "weights",
        "layer2.0.conv1: 1 of 64 biases",
    ),
    "int8: a weight scale": (
        "int8-openvino",
        bytes_edit("layer2.0.conv2.weight_scale", lambda array: array * 1.02),
        "weights",
        "layer2.0.conv2: 64 of 64 weight scales",
    ),
}


def _other_offset(text: str, name: str, other: str) -> str:
    pattern = r'(name="{}" type="Const".*?offset=")(\d+)'
    (_, offset) = re.findall(pattern.format(re.escape(other)), text, re.DOTALL)[0]
    return re.sub(
        pattern.format(re.escape(name)), rf"\g<1>{offset}", text, count=1, flags=re.DOTALL
    )


@pytest.fixture(scope="session")
def irs(forms: Forms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("irs")
    names = ("fp32", "fp16", "int8-openvino", "baked", "pooled-int8", "int8-merged")
    return {name: export_openvino(*forms[name], folder / name, check=False) for name in names}


def test_a_sound_ir_has_nothing_to_name(irs: dict[str, Artifact], forms: Forms) -> None:
    for name, artifact in irs.items():
        refuse_other_weights(artifact, forms[name][1])


@pytest.mark.parametrize("fault", IR_FAULTS)
def test_a_fault_in_an_ir_is_named(
    fault: str, irs: dict[str, Artifact], forms: Forms, tmp_path: Path
) -> None:
    form, edit, by, says = IR_FAULTS[fault]
    said = named(ir_planted(irs[form], tmp_path / "planted", edit), forms[form][1], by)
    assert re.search(says, said), said


# ---- packages and engines: what can be known of them


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda layers: layers[:-1], "layer fc of its record is missing"),
        (
            lambda layers: (*layers, PackageLayer(module="extra", op="Conv", dtype="float32")),
            "layer extra of its record is Conv, and of the network missing",
        ),
        (lambda layers: (*layers, layers[0]), "names a layer twice"),
    ],
)
def test_a_package_of_other_layers_is_refused(
    change: Callable[[Any], Any], says: str, digits: Weights, tmp_path: Path
) -> None:
    record = record_here(digits)
    other = record.model_copy(update={"layers": tuple(change(record.layers))})
    write_package(tmp_path / "model.pt2", other, facts_of(digits))
    with pytest.raises(BadArtifact, match=says):
        check_graph(sealed(tmp_path / "model.pt2", digits, other))


def test_a_package_with_a_layer_of_another_type_is_named(digits: Weights, tmp_path: Path) -> None:
    record = record_here(digits)
    wrong = (*record.layers[:-1], record.layers[-1].model_copy(update={"dtype": "float16"}))
    other = record.model_copy(update={"layers": wrong})
    write_package(tmp_path / "model.pt2", other, facts_of(digits))
    artifact = sealed(tmp_path / "model.pt2", digits, other)
    assert differences(artifact, digits) == ["fc: compiled in float16, not float32"]


def test_the_name_of_an_engine_covers_how_it_was_quantized(forms: Forms) -> None:
    manifest = forms["int8-trt"][0].manifest
    record = manifest.quantization
    assert record is not None
    assert record.ranges is not None
    moved = {name: (low, high * 2) for name, (low, high) in record.ranges.items()}
    names = {
        engine_name(
            manifest.model_copy(update={"quantization": record.model_copy(update=change)}),
            refittable=False,
        )
        for change in ({}, {"method": "percentile"}, {"ranges": moved}, {"source_sha256": "0" * 64})
    }
    assert len(names) == 4


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    "fault", ["fp16: the sign of a classifier weight", "fp16: a channel times 1.02"]
)
def test_no_engine_is_built_from_a_faulty_file(fault: str, forms: Forms, tmp_path: Path) -> None:
    """Weights cannot be read out of an engine, so what it is built from is held instead."""
    row = FAULTS[fault]
    artifact, _ = forms[row.form]
    parent = planted(artifact, tmp_path / "planted", row.edit)
    with pytest.raises(GateFailed, match=row.says):
        export(parent, tmp_path / "engine", format="trt-rtx", batch="1:8:64")
    assert not (tmp_path / "engine").exists()


# ---- the same through the commands


@pytest.mark.parametrize(
    "fault",
    [
        "int8: the classifier's bias zeroed",
        "int8: a zero point moved by 1",
        "int8: Q and DQ have other scales",
        "fp16: the sign of a classifier weight",
        "logits clipped at 50",
        "dropout",
    ],
)
def test_the_parity_command_names_the_fault(fault: str, forms: Forms, tmp_path: Path) -> None:
    row = FAULTS[fault]
    artifact, _ = forms[row.form]
    wrong = planted(artifact, tmp_path / "planted", row.edit)
    result = CliRunner().invoke(parity, ["--artifact", str(wrong.directory)])
    assert result.exit_code == GateFailed.exit_code, result.output
    assert re.search(row.says, result.output), result.output
    assert "Traceback" not in result.output


def test_a_verdict_lists_weights_beside_logits(forms: Forms, tmp_path: Path) -> None:
    row = FAULTS["int8: one bias value zeroed"]
    artifact, weights = forms[row.form]
    sound = check(artifact, weights=weights)
    assert sound.passed, sound.failures
    outcome = check(planted(artifact, tmp_path / "planted", row.edit), weights=weights)
    assert not outcome.passed
    assert re.search(row.says, outcome.failures[-1])


def test_a_benchmark_does_not_measure_a_faulty_file(forms: Forms, tmp_path: Path) -> None:
    row = FAULTS["fp16: the sign of a classifier weight"]
    artifact, weights = forms[row.form]
    wrong = planted(artifact, tmp_path / "planted", row.edit)
    run = benchmark(
        wrong, weights=weights, runtimes=["ort-cpu"], duration=0.05, rounds=1, warmup=0.0
    )
    (measured,) = run.rows
    assert measured.status == "failed"
    assert re.search(row.says, measured.reasons[0]), measured.reasons


# ---- the same in seeded ResNeXt-50


@pytest.fixture(scope="session")
def resnext50(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder, weights = tmp_path_factory.mktemp("resnext50"), seeded_resnext50()
    plain = export_onnx(weights, folder / "fp32", check=False)
    int8 = ExportRequest(
        precision="int8", runtime="ort", calibration="random", calibration_images=2
    )
    return {
        "fp32": plain,
        "fp16": derive_onnx(
            plain, weights, folder / "fp16", ExportRequest(precision="fp16"), check=False
        ),
        "int8": derive_onnx(plain, weights, folder / "int8", int8, check=False),
    }


RESNEXT50 = {
    "one weight times 1.02": Row(
        "fp32",
        changed("layer3.2.conv2.weight", at((77, 3, 1, 1), lambda value: value * 1.02)),
        "weights",
        r"layer3.2.conv2: 1 of \d+ weights are not the network's, first \[77, 3, 1, 1\]",
    ),
    "dropout": Row(
        "fp32",
        behind("node_mean", op("Dropout", ["x", "rate"]), rate=_F(0.1)),
        "graph",
        "is a Dropout",
    ),
    "fp16: the sign of a classifier weight": Row(
        "fp16",
        changed("fc.weight", at((3, 7), lambda value: -value)),
        "weights",
        "fc: 1 of 2048000",
    ),
    "fp16: a layer rounded to 5 bits of mantissa": Row(
        "fp16", changed("layer4.1.conv3.weight", mantissa(5)), "weights", "layer4.1.conv3: "
    ),
    "int8: a weight one step off": Row(
        "int8",
        changed("layer2.3.conv1.weight_quantized", at((1, 2, 0, 0), lambda value: value // 2 + 1)),
        "weights",
        "layer2.3.conv1: 1 of ",
    ),
    "int8: activation scale times 1.1": Row(
        "int8", scale_of_the_first_q(1.1), "weights", "of 'relu_1' gives"
    ),
    "int8: the classifier's bias zeroed": Row(
        "int8", changed("fc.bias", lambda array: array * 0), "weights", "fc: .* of 1000 biases"
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", RESNEXT50)
def test_a_fault_in_resnext50_is_named(
    fault: str, resnext50: dict[str, Artifact], tmp_path: Path
) -> None:
    row = RESNEXT50[fault]
    refuse_other_weights(resnext50[row.form], seeded_resnext50())
    wrong = planted(resnext50[row.form], tmp_path / "planted", row.edit)
    said = named(wrong, seeded_resnext50(), row.by)
    assert re.search(row.says, said), said
