"""A merge is proven to change nothing but the shape of groups, and every planted fault is named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.artifact.files import Artifact
from resnext.errors import GateFailed
from resnext.images.synthetic import seeded_pixels
from resnext.weights.spec import Weights
from resnext_export.calibration.collect import calibrate
from resnext_export.passes import merge_groups as converter
from resnext_export.passes import merge_proof
from resnext_export.passes.base import run_pass
from resnext_export.passes.initializers import Constants
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.merge_proof import MergeProof, prove_merge
from resnext_export.passes.quantize_fp8 import QuantizeFp8
from resnext_export.passes.quantize_int8 import QuantizeInt8

GROUPED = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
FORMS = ("fp32", "trt", "ort", "openvino", "fp8")


@pytest.fixture(scope="module")
def digits_forms(digits: Weights, digits_artifact: Artifact) -> dict[str, onnx.ModelProto]:
    """The shipped network in every form that this package exports."""
    fp32 = onnx.load(digits_artifact.path)
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, 16))
    ranges = calibrate(digits_artifact.path, [images], source="test images", source_sha256="a" * 64)
    forms = {
        runtime: run_pass(QuantizeInt8(ranges, runtime), fp32).proto
        for runtime in ("trt", "ort", "openvino")
    }
    return {"fp32": fp32, "fp8": run_pass(QuantizeFp8(ranges, 4), fp32).proto, **forms}


def small(form: str = "float32") -> onnx.ModelProto:
    """Two grouped convolutions, strided and dilated, with biases; ``form`` is a float type, or how
    int8 is made.
    """
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, NDArray[Any]] = {}
    names = {
        "bfloat16": TensorProto.BFLOAT16,
        "float16": TensorProto.FLOAT16,
        "float8": TensorProto.FLOAT8E4M3FN,
    }
    kind = helper.tensor_dtype_to_np_dtype(names.get(form, TensorProto.FLOAT))
    for name, (width, outputs) in {"first": (2, 16), "second": (4, 32)}.items():
        weight = random.standard_normal((outputs, width, 3, 3)).astype(
            kind if form != "float8" else np.float32
        )
        tensors[f"{name}.bias"] = random.standard_normal(outputs).astype(weight.dtype)
        scale = np.linspace(0.01, 0.05, outputs, dtype=np.float32)
        zero: NDArray[Any] = (np.arange(outputs) % 50 - 20).astype(np.int8)
        source = f"{name}.weight"
        if form == "float8":
            weight, zero = weight.astype(kind), np.zeros(outputs, kind)
        if form in ("int8", "pair"):
            tensors |= {f"{name}.scale": scale, f"{name}.zero": zero}
        extra = [f"{name}.scale", f"{name}.zero"]
        if form == "pair":
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [source, *extra], [f"{name}.q"], f"{name}.Q", axis=0
                )
            )
            source = f"{name}.q"
        if form in ("int8", "float8"):
            tensors |= {f"{name}.scale": scale, f"{name}.zero": zero}
            weight = (
                weight
                if form == "float8"
                else random.integers(-100, 100, weight.shape).astype(np.int8)
            )
        tensors[f"{name}.weight"] = weight
        if form in ("int8", "pair", "float8"):
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [source, *extra], [f"{name}.dq"], f"{name}.DQ", axis=0
                )
            )
            source = f"{name}.dq"
        given = "first.out" if name == "second" else "input"
        shape: dict[str, Any] = (
            {"strides": [2, 1], "pads": [1, 0, 2, 1]} if name == "first" else {"dilations": [2, 2]}
        )
        read = [given, source, f"{name}.bias"]
        nodes.append(
            helper.make_node(
                "Conv", read, [f"{name}.out"], name, group=8, kernel_shape=[3, 3], **shape
            )
        )
    nodes.append(helper.make_node("Relu", ["second.out"], ["output"], "relu"))
    data_type = helper.np_dtype_to_tensor_dtype(tensors["first.bias"].dtype)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", data_type, ["batch", 16, 20, 20])],
        [helper.make_tensor_value_info("output", data_type, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    helper.set_model_props(proto, {"resnext.model": "small"})
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


SMALL = ("float32", "float16", "bfloat16", "float8", "int8", "pair")


def node_of(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in proto.graph.node if node.name == name)
    assert isinstance(node, onnx.NodeProto)
    return node


def attribute_of(proto: onnx.ModelProto, node: str, name: str) -> onnx.AttributeProto:
    (attribute,) = (
        attribute for attribute in node_of(proto, node).attribute if attribute.name == name
    )
    assert isinstance(attribute, onnx.AttributeProto)
    return attribute


def change(proto: onnx.ModelProto, name: str, edit: Callable[[NDArray[Any]], object]) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    edit(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize("least_width", [8, 16, 10**6])
@pytest.mark.parametrize("form", FORMS)
def test_merges_of_every_form_are_proven(
    form: str, least_width: int, digits_forms: dict[str, onnx.ModelProto]
) -> None:
    merged, names, *_ = MergeGroups(least_width).apply(digits_forms[form])
    proof = prove_merge(digits_forms[form], merged)
    assert proof.convs == names == {8: GROUPED[:1], 16: GROUPED[:2]}.get(least_width, GROUPED)
    assert 0 <= proof.max_error < 1e-13


@pytest.mark.parametrize("form", SMALL)
def test_strides_dilations_channel_multipliers_and_zero_points_are_proven(form: str) -> None:
    proto = small(form)
    for least_width in (3, 5, 100):
        merged, names, *_ = MergeGroups(least_width).apply(proto)
        assert prove_merge(proto, merged).convs == names != ()


@pytest.mark.parametrize("kernel", [(5,), (2, 3, 2)])
def test_convolutions_over_lines_and_volumes_are_proven(kernel: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).standard_normal((24, 2, *kernel)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["y"], "conv", group=6)],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (2, 12, *[7] * len(kernel)))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    merged, _, *_ = MergeGroups(5).apply(proto)
    assert prove_merge(proto, merged).convs == ("conv",)


def test_a_model_that_was_not_merged_is_proven_to_be_the_same() -> None:
    assert prove_merge(small(), small()) == MergeProof((), 0.0)
    itself = small()  # as `merge_groups` auto gives it where no merge pays
    assert prove_merge(itself, itself) == MergeProof((), 0.0)


def with_twin(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """``name`` runs again beside itself, over the same weight, and is averaged with itself."""
    conv = node_of(proto, name)
    twin = onnx.NodeProto()
    twin.CopyFrom(conv)
    twin.name, twin.output[0] = f"{name}.twin", f"{name}.twin.out"
    mean = helper.make_node("Mean", [f"{name}.own", twin.output[0]], [conv.output[0]], "mean")
    conv.output[0] = f"{name}.own"
    at = [node.name for node in proto.graph.node].index(name) + 1
    proto.graph.node.insert(at, twin)
    proto.graph.node.insert(at + 1, mean)
    return proto


@pytest.mark.parametrize("only", [None, ("second",), ("second.twin",)])
@pytest.mark.parametrize("form", SMALL)
def test_copies_of_shared_weights_and_nodes_are_part_of_a_merge(
    form: str, only: tuple[str, ...] | None
) -> None:
    shared = with_twin(small(form), "second")
    merged, names, *_ = MergeGroups(16, only).apply(shared)
    assert (
        prove_merge(shared, merged).convs == names == (only or ("first", "second", "second.twin"))
    )


@pytest.mark.parametrize("form", SMALL)
def test_a_shared_weight_merged_in_place_is_caught(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = with_twin(small(form), "second")
    monkeypatch.setattr(Constants, "shared", lambda *_: False)
    merged, _, *_ = MergeGroups(16, ["second.twin"]).apply(shared)
    with pytest.raises(GateFailed, match="second has 8 groups and a weight of shape"):
        prove_merge(shared, merged)


def test_a_weight_in_a_constant_node_is_proven() -> None:
    proto = small()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "first.weight")
    proto.graph.node.insert(
        0, helper.make_node("Constant", [], [weight.name], "held", value=weight)
    )
    proto.graph.initializer.remove(weight)
    merged, names, *_ = MergeGroups(8).apply(proto)
    assert prove_merge(proto, merged).convs == names == ("first", "second")
    tensor = merged.graph.node[0].attribute[0].t
    array = numpy_helper.to_array(tensor).copy()
    array[3, 2, 1, 1] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(GateFailed, match="first has"):
        prove_merge(proto, merged)


# Planted faults.


def between_groups(proto: onnx.ModelProto) -> None:
    def edit(weight: NDArray[Any]) -> None:
        weight[0, 2, 1, 1] = 1e-6

    change(proto, "first.weight", edit)


def one_ulp(proto: onnx.ModelProto) -> None:
    def edit(weight: NDArray[Any]) -> None:
        weight[5, 6, 1, 2] = np.nextafter(
            weight[5, 6, 1, 2], np.float32(9)
        )  # group 1 reads channels 4 to 7

    change(proto, "second.weight", edit)


def wrong_groups(proto: onnx.ModelProto) -> None:
    attribute_of(proto, "first", "group").i = 4


def twice_the_groups(proto: onnx.ModelProto) -> None:
    attribute_of(proto, "second", "group").i = 16


def bias(proto: onnx.ModelProto) -> None:
    def edit(values: NDArray[Any]) -> None:
        values[3] += 1

    change(proto, "second.bias", edit)


def drop(name: str) -> Callable[[onnx.ModelProto], None]:
    def fault(proto: onnx.ModelProto) -> None:
        proto.graph.node.remove(node_of(proto, name))

    return fault


def another_node(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Identity", ["output"], ["again"], "more"))


def swapped_nodes(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def stride(proto: onnx.ModelProto) -> None:
    attribute_of(proto, "first", "strides").ints[1] = 2


def rewired(proto: onnx.ModelProto) -> None:
    node_of(proto, "second").input[0] = "input"


def renamed(proto: onnx.ModelProto) -> None:
    node_of(proto, "relu").op_type = "Sigmoid"


def metadata(proto: onnx.ModelProto) -> None:
    proto.metadata_props[0].value = "large"


def opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 23


def output_name(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "second.out"


def input_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def constant_lost(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.remove(
        next(t for t in proto.graph.initializer if t.name == "first.bias")
    )


def constant_added(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "idle"))


def constants_moved(proto: onnx.ModelProto) -> None:
    tensors = list(proto.graph.initializer)[::-1]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensors)


def other_type(proto: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "first.weight")
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
    )


def not_a_number(proto: onnx.ModelProto) -> None:
    def edit(weight: NDArray[Any]) -> None:
        weight[0, 0, 0, 0] = np.nan

    change(proto, "first.weight", edit)


def stale_note(proto: onnx.ModelProto) -> None:
    shape = next(
        value for value in proto.graph.value_info if value.name == "first.out"
    ).type.tensor_type.shape
    shape.dim[1].dim_value += 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (between_groups, "first has nonzero weights between groups"),
        (one_ulp, "second has different weights"),
        (wrong_groups, "first has 4 groups and a weight of shape"),
        (twice_the_groups, "second has 16 groups"),
        (bias, "node second reads a changed tensor"),
        (drop("first"), "node first is missing"),
        (drop("relu"), "node relu is missing"),
        (another_node, "node more is missing, altered or moved"),
        (swapped_nodes, "node first is missing, altered or moved"),
        (stride, "node first is .*altered"),
        (rewired, "node second is .*altered"),
        (renamed, "node relu is .*altered"),
        (metadata, "metadata_props of the model differs"),
        (opset, "opset_import of the model differs"),
        (output_name, "output of the graph differs"),
        (input_shape, "input of the graph differs"),
        (constant_lost, "constant 'first.bias' is missing or"),
        (constant_added, "tensor 'idle' was added or changed"),
        (constants_moved, "constant 'first.bias' is missing or has moved"),
        (other_type, "the weight of first is stored as another type"),
        (not_a_number, "first has different weights"),
        (stale_note, "the type or shape in the value_info of tensor 'first.out' differs"),
    ],
)
def test_planted_faults_are_caught_and_named(
    fault: Callable[[onnx.ModelProto], None], said: str
) -> None:
    proto = small()
    merged, _, *_ = MergeGroups(8).apply(proto)
    prove_merge(proto, merged)
    fault(merged)
    with pytest.raises(GateFailed, match=said) as exc:
        prove_merge(proto, merged)
    assert "\n" not in str(exc.value)


@pytest.mark.parametrize("fault", [between_groups, one_ulp])
def test_running_both_forms_catches_faults_by_itself(
    fault: Callable[[onnx.ModelProto], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_proof, "_compare_blocks", lambda *_: None)
    proto = small()
    merged, _, *_ = MergeGroups(8).apply(proto)
    prove_merge(proto, merged)
    fault(merged)
    with pytest.raises(GateFailed, match=r"outputs of (first|second) differ by"):
        prove_merge(proto, merged)
    assert prove_merge(proto, merged, tolerance=1e-4).max_error > 1e-10


def test_a_zero_point_that_is_not_filled_in_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = small("int8")
    monkeypatch.setattr(converter, "_zero_bits", lambda *_: np.zeros(1, np.int8))
    merged, _, *_ = MergeGroups(8).apply(proto)
    with pytest.raises(GateFailed, match="first has nonzero weights between groups"):
        prove_merge(proto, merged)


def scale(proto: onnx.ModelProto) -> None:
    def edit(values: NDArray[Any]) -> None:
        values[7] *= 2

    change(proto, "second.scale", edit)


def zero_point(proto: onnx.ModelProto) -> None:
    def edit(values: NDArray[Any]) -> None:
        values[7] += 1

    change(proto, "second.zero", edit)


def axis(proto: onnx.ModelProto) -> None:
    attribute_of(proto, "second.DQ", "axis").i = 1


def other_scale(proto: onnx.ModelProto) -> None:
    node_of(proto, "second.DQ").input[1] = "first.scale"


def circle(proto: onnx.ModelProto) -> None:
    node_of(proto, "second.DQ").input[0] = "second.dq"


def activation_for_weight(proto: onnx.ModelProto) -> None:
    node_of(proto, "second").input[1] = "first.out"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (scale, r"node second\.DQ reads a changed tensor"),
        (zero_point, r"node second\.DQ reads a changed tensor"),
        (axis, r"node second\.DQ is .*altered"),
        (other_scale, r"node second\.DQ is .*altered"),
        (drop("second.DQ"), r"node second\.DQ is missing|node second is missing"),
        (circle, r"node second\.DQ runs before its input is written"),
        (activation_for_weight, r"the weight of second, 'first\.out', is not a constant"),
    ],
)
def test_faults_in_how_weights_are_dequantized_are_caught(
    fault: Callable[[onnx.ModelProto], None], said: str
) -> None:
    proto = small("int8")
    merged, _, *_ = MergeGroups(8).apply(proto)
    fault(merged)
    with pytest.raises(GateFailed, match=said):
        prove_merge(proto, merged)


def copy_rescaled(proto: onnx.ModelProto) -> None:
    copied = node_of(proto, "second.twin.DequantizeLinear")
    copied.input[1], copied.input[2] = "first.scale", "first.zero"


def copy_too_late(proto: onnx.ModelProto) -> None:
    nodes = sorted(
        proto.graph.node, key=lambda node: str(node.name) == "second.twin.DequantizeLinear"
    )
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def copy_read_elsewhere(proto: onnx.ModelProto) -> None:
    node_of(proto, "second").input[1] = node_of(proto, "second.twin").input[1]


def idle_copy(proto: onnx.ModelProto) -> None:
    copied = onnx.NodeProto()
    copied.CopyFrom(node_of(proto, "first.DQ"))
    copied.name, copied.output[0] = "idle", "idle.dq"
    proto.graph.node.insert(0, copied)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            copy_rescaled,
            (
                r"node second\.twin\.DequantizeLinear, which dequantizes the weight of"
                r" second\.twin, differs"
            ),
        ),
        (copy_too_late, r"node second\.twin runs before its input is written"),
        (copy_read_elsewhere, "node second runs before its input is written"),
        (idle_copy, "tensor 'idle.dq' was added or changed"),
    ],
)
def test_faults_in_copies_are_caught(fault: Callable[[onnx.ModelProto], None], said: str) -> None:
    shared = with_twin(small("int8"), "second")
    merged, _, *_ = MergeGroups(16, ["second.twin"]).apply(shared)
    prove_merge(shared, merged)
    fault(merged)
    with pytest.raises(GateFailed, match=said):
        prove_merge(shared, merged)


def test_what_only_a_subgraph_reads_is_not_overlooked() -> None:
    proto = small()
    inner = helper.make_graph(
        [helper.make_node("Identity", ["first.weight"], ["inner"], "peek")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(
        helper.make_node("If", ["yes"], ["seen"], "if", then_branch=inner, else_branch=inner)
    )
    merged, _, *_ = MergeGroups(8).apply(proto)
    prove_merge(proto, merged)  # the converter leaves the branch the old weight
    conv, now = (node_of(merged, "first"), node_of(merged, "if"))
    for branch in now.attribute:
        branch.g.node[0].input[0] = conv.input[1]
    with pytest.raises(GateFailed, match=r"node if is .*altered|node if reads"):
        prove_merge(proto, merged)


def test_each_further_width_of_a_chain_of_merges_is_proven() -> None:
    proto = small("int8")
    steps = [proto, *(MergeGroups(width).apply(proto).proto for width in (4, 8, 16, 32))]
    for before, after in pairwise(steps):
        prove_merge(before, after)
    with pytest.raises(GateFailed, match=r"second has 8 groups|first has 4 groups"):
        prove_merge(steps[-1], steps[1])  # fewer groups cannot be split
