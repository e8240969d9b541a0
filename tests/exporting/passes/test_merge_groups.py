"""Merged graphs compute what the unmerged ones do, on real weights; faults planted into a merge are
caught.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import BadArtifact, EngineRefused, UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import variant
from resnext.network.forms import merge_model_groups, merged_macs
from resnext.network.model import Bottleneck
from resnext.precision import Precision
from resnext.runtimes.trt.library import LIBRARIES
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.passes import merge_groups as converter
from resnext_export.passes.base import run_pass
from resnext_export.passes.initializers import Constants
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.tensorrt.engine_from_onnx import engine_from_onnx

GROUPED = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")  # 8 groups of 4, 8 and 16 channels
WIDTHS = (4, 8, 16, 32, 1_000_000)


@pytest.fixture(scope="module")
def fp32(digits: Weights) -> onnx.ModelProto:
    proto = exported(digits, "fp32")
    helper.set_model_props(proto, {"resnext.model": "digits"})
    return proto


@pytest.fixture(scope="module")
def fp16(digits: Weights) -> onnx.ModelProto:
    return exported(digits, "fp16")


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 5))


def exported(weights: Weights, precision: Precision) -> onnx.ModelProto:
    proto = onnx_from_torch(weights, BatchRange(min=1, opt=8, max=None))
    return run_pass(Lower("fp16"), proto).proto if precision == "fp16" else proto


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def convs(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in proto.graph.node if node.op_type == "Conv"}


def groups(proto: onnx.ModelProto) -> tuple[int, ...]:
    found = ({a.name: a.i for a in convs(proto)[name].attribute}["group"] for name in GROUPED)
    return tuple(found)


def tensors(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def logits(proto: onnx.ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": images})[0])


def float64_logits(proto: onnx.ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    double = copy_of(proto)
    del double.graph.value_info[:]
    for tensor in double.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float64), tensor.name
                )
            )
    for value in (*double.graph.input, *double.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    (found,) = cast(
        "list[NDArray[Any]]",
        ReferenceEvaluator(double).run(None, {"input": images.astype(np.float64)}),
    )
    assert found.dtype == np.float64
    return found


def error(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """Largest difference over the root mean square of the reference."""
    assert candidate.shape == reference.shape
    wide = reference.astype(np.float64)
    return float(np.abs(candidate - wide).max() / np.sqrt(np.mean(wide**2)))


def check(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize(
    ("least_width", "expected"),
    [
        (4, (8, 8, 8)),
        (8, (4, 8, 8)),
        (16, (2, 4, 8)),
        (32, (1, 2, 4)),
        (33, (1, 1, 2)),
        (1_000_000, (1, 1, 1)),
    ],
)
def test_groups_are_merged_as_the_models_are(
    least_width: int, expected: tuple[int, ...], fp32: onnx.ModelProto, digits: Weights
) -> None:
    merged, names, *_ = run_pass(MergeGroups(least_width), fp32)
    check(merged)
    model = merge_model_groups(load_model(digits), least_width)
    assert groups(merged) == expected
    assert expected == tuple(
        block.conv2.groups for block in model.modules() if isinstance(block, Bottleneck)
    )
    changed = zip(GROUPED, groups(fp32), expected, strict=True)
    assert names == tuple(name for name, before, after in changed if before != after)


@pytest.mark.parametrize("least_width", WIDTHS)
def test_a_merged_graph_computes_the_same_in_float32(
    least_width: int, fp32: onnx.ModelProto, images: NDArray[Any]
) -> None:
    merged, _, *_ = run_pass(MergeGroups(least_width), fp32)
    assert error(logits(fp32, images), logits(merged, images)) < 1e-6


@pytest.mark.parametrize("least_width", WIDTHS)
def test_a_merged_graph_is_exact_in_float64(
    least_width: int, fp32: onnx.ModelProto, images: NDArray[Any]
) -> None:
    merged, _, *_ = run_pass(MergeGroups(least_width), fp32)
    assert error(float64_logits(fp32, images[:2]), float64_logits(merged, images[:2])) < 1e-10


@pytest.mark.parametrize("least_width", WIDTHS)
def test_a_merged_float16_graph_computes_the_same(
    least_width: int, fp16: onnx.ModelProto, images: NDArray[Any]
) -> None:
    merged, _, *_ = run_pass(MergeGroups(least_width), fp16)
    check(merged)
    assert error(logits(fp16, images), logits(merged, images)) < 2e-3


def rotated_by_one_group(block: Bottleneck) -> None:
    """Each output channel takes the inputs of the group beside its own."""
    block.conv2.weight.data = block.conv2.weight.roll(block.conv2.weight.shape[0] // 8, dims=1)


def zeros_forgotten(block: Bottleneck) -> None:
    """Off the diagonal stands what stands on it."""
    weight = block.conv2.weight
    own = (weight != 0).flatten(2).any(dim=2)
    narrow = weight[own].reshape(weight.shape[0], -1, *weight.shape[2:])
    block.conv2.weight.data = narrow.repeat(1, weight.shape[1] // narrow.shape[1], 1, 1)


@pytest.mark.parametrize("fault", [rotated_by_one_group, zeros_forgotten])
def test_a_faulty_merge_is_caught_by_both_comparisons(
    fault: Callable[[Bottleneck], None],
    fp32: onnx.ModelProto,
    images: NDArray[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def faulty(blocks: nn.ModuleList, least_width: int) -> nn.ModuleList:
        merged = merge_model_groups(blocks, least_width)
        fault(cast("Bottleneck", merged[0]))
        return merged

    monkeypatch.setattr(converter, "merge_model_groups", faulty)
    merged, names, *_ = MergeGroups(8).apply(fp32)
    assert names == GROUPED[:1]
    check(merged)
    assert error(logits(fp32, images), logits(merged, images)) > 1e-3
    assert error(float64_logits(fp32, images[:2]), float64_logits(merged, images[:2])) > 1e-3


def test_bfloat16_weights_are_merged_bit_by_bit(fp32: onnx.ModelProto) -> None:
    halves = copy_of(fp32)
    halves.opset_import[0].version = 22  # the first whose Conv takes bfloat16
    half = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    for tensor in halves.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(half), tensor.name)
            )
    for value in (*halves.graph.input, *halves.graph.output, *halves.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    merged, _, *_ = run_pass(MergeGroups(32), halves)
    check(merged)
    expected = tensors(run_pass(MergeGroups(32), fp32).proto)
    for name, weight in tensors(merged).items():
        if weight.dtype == half:
            assert weight.tobytes() == expected[name].astype(half).tobytes()
    assert tensors(merged)["layer1.0.conv2.weight"].shape == (32, 32, 3, 3)


def quantized(proto: onnx.ModelProto, form: str, *, one_scale: bool = False) -> onnx.ModelProto:
    """Weights in int8, by channel or with ``one_scale``; ``form`` is symmetric, asymmetric, no zero
    point or pair.
    """
    new = copy_of(proto)
    held = {tensor.name: tensor for tensor in new.graph.initializer}
    before: list[onnx.NodeProto] = []
    for name, conv in convs(new).items():
        weight = numpy_helper.to_array(held[conv.input[1]])
        rows = weight.reshape(1 if one_scale else weight.shape[0], -1)
        scale = (np.abs(rows).max(axis=1) / 60).astype(np.float32)
        zero: NDArray[np.int8] = np.zeros(len(scale), np.int8)
        if form in ("asymmetric", "pair"):
            zero[:] = np.arange(len(scale)) % 50 - 40
        integers = (
            (np.rint(rows / scale[:, None]) + zero[:, None]).astype(np.int8).reshape(weight.shape)
        )
        shape = () if one_scale else (-1,)
        extra = [f"{name}.scale"] if form == "no zero point" else [f"{name}.scale", f"{name}.zero"]
        new.graph.initializer.append(numpy_helper.from_array(scale.reshape(shape), f"{name}.scale"))
        new.graph.initializer.append(numpy_helper.from_array(zero.reshape(shape), f"{name}.zero"))
        source = conv.input[1]
        axis: dict[str, Any] = {} if one_scale else {"axis": 0}
        if form == "pair":
            before.append(
                helper.make_node(
                    "QuantizeLinear", [source, *extra], [f"{name}.q"], f"{name}.Q", **axis
                )
            )
            note = helper.make_tensor_value_info(f"{name}.q", TensorProto.INT8, weight.shape)
            new.graph.value_info.append(note)
            source = f"{name}.q"
        else:
            held[source].CopyFrom(numpy_helper.from_array(integers, source))
            note = next(value for value in new.graph.value_info if value.name == source)
            note.type.tensor_type.elem_type = TensorProto.INT8
        before.append(
            helper.make_node(
                "DequantizeLinear", [source, *extra], [f"{name}.dq"], f"{name}.DQ", **axis
            )
        )
        note = helper.make_tensor_value_info(f"{name}.dq", TensorProto.FLOAT, weight.shape)
        new.graph.value_info.append(note)
        conv.input[1] = f"{name}.dq"
    nodes = [*before, *new.graph.node]
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    check(new)
    return new


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("form", ["symmetric", "asymmetric", "no zero point", "pair"])
def test_quantized_weights_are_merged_behind_their_scales(
    form: str, one_scale: bool, fp32: onnx.ModelProto, images: NDArray[Any]
) -> None:
    narrow = quantized(fp32, form, one_scale=one_scale)
    merged, names, *_ = run_pass(MergeGroups(32), narrow)
    check(merged)
    assert names == GROUPED
    assert groups(merged) == (1, 2, 4)
    assert error(logits(narrow, images), logits(merged, images)) < 1e-6
    before, after = tensors(narrow), tensors(merged)
    weights = {f"{name}.weight" for name in GROUPED}
    assert {name for name in before if not np.array_equal(before[name], after[name])} == weights
    assert {after[name].dtype for name in weights} == {
        np.dtype(np.float32 if form == "pair" else np.int8)
    }


def test_a_zero_that_is_not_the_zero_point_is_caught(
    fp32: onnx.ModelProto, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = quantized(fp32, "asymmetric")
    monkeypatch.setattr(converter, "_zero_bits", lambda *_: np.zeros(1, np.int8))
    merged, _, *_ = MergeGroups(32).apply(narrow)
    assert error(logits(narrow, images), logits(merged, images)) > 1e-3


def test_only_the_named_convolutions_change(fp32: onnx.ModelProto, images: NDArray[Any]) -> None:
    merged, names, *_ = run_pass(MergeGroups(32, only={"layer2.0.conv2", "conv1"}), fp32)
    assert names == ("layer2.0.conv2",)
    assert groups(merged) == (8, 2, 8)
    assert error(logits(fp32, images), logits(merged, images)) < 1e-6
    assert run_pass(MergeGroups(32, only=()), fp32).changed == ()


def test_everything_but_the_merged_weights_stays(fp32: onnx.ModelProto) -> None:
    before = fp32.SerializeToString()
    merged, names, *_ = run_pass(MergeGroups(32), fp32)
    assert fp32.SerializeToString() == before
    assert [node.name for node in merged.graph.node] == [node.name for node in fp32.graph.node]
    assert list(merged.metadata_props) == list(fp32.metadata_props) != []
    assert (merged.ir_version, list(merged.opset_import)) == (
        fp32.ir_version,
        list(fp32.opset_import),
    )
    old, new = tensors(fp32), tensors(merged)
    assert old.keys() == new.keys()
    weights = {f"{name}.weight" for name in names}
    assert {name for name in old if not np.array_equal(old[name], new[name])} == weights


def with_the_same_conv_twice(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """``name`` runs again beside itself, with the same weight, and the two results are averaged."""
    new = copy_of(proto)
    conv = convs(new)[name]
    twin = onnx.NodeProto()
    twin.CopyFrom(conv)
    twin.name, twin.output[0] = f"{name}.twin", f"{conv.output[0]}.twin"
    mean = helper.make_node(
        "Mean", [f"{conv.output[0]}.own", twin.output[0]], [conv.output[0]], "mean_of_twins"
    )
    conv.output[0] = mean.input[0]
    nodes = [
        n for node in new.graph.node for n in ([node, twin, mean] if node.name == name else [node])
    ]
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    return new


@pytest.mark.parametrize("form", ["plain", "asymmetric", "pair"])
@pytest.mark.parametrize("only", [None, {"layer1.0.conv2"}, {"layer1.0.conv2.twin"}])
def test_weights_that_others_share_are_not_broken(
    form: str, only: Collection[str] | None, fp32: onnx.ModelProto, images: NDArray[Any]
) -> None:
    shared = with_the_same_conv_twice(
        fp32 if form == "plain" else quantized(fp32, form), "layer1.0.conv2"
    )
    merged, names, *_ = run_pass(MergeGroups(32, only), shared)
    check(merged)
    assert set(names) == set(only or (*GROUPED, "layer1.0.conv2.twin"))
    assert error(logits(shared, images), logits(merged, images)) < 1e-6
    widths = {
        name: {a.name: a.i for a in convs(merged)[name].attribute}["group"]
        for name in convs(merged)
    }
    twins = ("layer1.0.conv2", "layer1.0.conv2.twin")
    assert [widths[name] for name in twins] == [1 if name in names else 8 for name in twins]


@pytest.mark.parametrize("form", ["plain", "asymmetric", "pair"])
def test_a_shared_weight_merged_in_place_is_caught(
    form: str, fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = with_the_same_conv_twice(
        fp32 if form == "plain" else quantized(fp32, form), "layer1.0.conv2"
    )
    monkeypatch.setattr(Constants, "shared", lambda *_: False)
    merged, _, *_ = MergeGroups(32, ["layer1.0.conv2.twin"]).apply(shared)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match=r"layer1\.0\.conv2"):
        logits(merged, np.zeros((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize("form", ["plain", "symmetric", "pair"])
def test_a_stale_shape_in_the_graphs_notes_is_caught(
    form: str, fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Constants, "note", lambda *_: None)
    merged, _, *_ = MergeGroups(32).apply(fp32 if form == "plain" else quantized(fp32, form))
    with pytest.raises(onnx.shape_inference.InferenceError):
        check(merged)


def test_a_weight_in_a_constant_node_is_merged(fp32: onnx.ModelProto, images: NDArray[Any]) -> None:
    inline = copy_of(fp32)
    weight = next(
        tensor for tensor in inline.graph.initializer if tensor.name == "layer1.0.conv2.weight"
    )
    inline.graph.node.insert(
        0, helper.make_node("Constant", [], [weight.name], "held", value=weight)
    )
    inline.graph.initializer.remove(weight)
    merged, names, *_ = run_pass(MergeGroups(32), inline)
    check(merged)
    assert names == GROUPED
    assert error(logits(inline, images), logits(merged, images)) < 1e-6


@pytest.mark.parametrize("kernel", [(5,), (3, 1), (2, 3, 2)])
def test_other_kernels_and_channel_multipliers_are_merged(kernel: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((24, 2, *kernel)).astype(np.float32)
    size = (2, 12, *[7] * len(kernel))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["y"], "conv", group=6)],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    merged, names, *_ = run_pass(
        MergeGroups(5), proto
    )  # 6 groups of 2: factors 1, 2, 3, 6, so 5 is reached at 6
    assert names == ("conv",)
    assert tensors(merged)["w"].shape == (24, 6, *kernel)
    pixels = random.standard_normal(size).astype(np.float32)
    assert error(logits(proto, pixels), logits(merged, pixels)) < 1e-6


@pytest.mark.parametrize("least_width", [0, -4, 2.0, True])
def test_a_least_width_below_one_or_no_integer_is_refused(
    least_width: Any, fp32: onnx.ModelProto
) -> None:
    for only in (None, ()):
        with pytest.raises(UsageError, match="least_width must be an integer of at least 1"):
            run_pass(MergeGroups(least_width, only), fp32)


def test_a_name_that_no_convolution_has_is_refused_with_those_there_are(
    fp32: onnx.ModelProto,
) -> None:
    with pytest.raises(
        UnknownName, match=r"'layer1.0.conv5'; did you mean .* Known: conv1, .*layer3.0.conv2"
    ):
        run_pass(MergeGroups(32, only=["layer1.0.conv2", "layer1.0.conv5"]), fp32)
    with pytest.raises(UnknownName, match="'fc'"):
        run_pass(MergeGroups(32, only=["fc"]), fp32)


def weight_computed(proto: onnx.ModelProto) -> None:
    conv = convs(proto)["layer2.0.conv2"]
    proto.graph.node.insert(0, helper.make_node("Neg", [conv.input[1]], ["computed"], "neg"))
    convs(proto)["layer2.0.conv2"].input[1] = "computed"


def weight_given_as_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(
        helper.make_tensor_value_info("layer2.0.conv2.weight", TensorProto.FLOAT, (64, 8, 3, 3))
    )


@pytest.mark.parametrize("fault", [weight_computed, weight_given_as_input])
def test_a_weight_that_is_no_constant_is_refused(
    fault: Callable[[onnx.ModelProto], None], fp32: onnx.ModelProto
) -> None:
    broken = copy_of(fp32)
    fault(broken)
    check(broken)
    with pytest.raises(BadArtifact, match=r"layer2\.0\.conv2: its weight .* is not a constant"):
        run_pass(MergeGroups(32), broken)
    assert run_pass(MergeGroups(32, only=["layer1.0.conv2"]), broken).changed == ("layer1.0.conv2",)


def test_scales_along_another_axis_are_refused(fp32: onnx.ModelProto) -> None:
    narrow = quantized(fp32, "symmetric")
    maker = next(node for node in narrow.graph.node if node.name == "layer2.0.conv2.DQ")
    maker.attribute[0].i = 1
    with pytest.raises(BadArtifact, match=r"layer2\.0\.conv2: layer2\.0\.conv2\.DQ .*axis 0"):
        run_pass(MergeGroups(32), narrow)


def test_a_zero_point_that_is_no_constant_is_refused(fp32: onnx.ModelProto) -> None:
    narrow = quantized(fp32, "symmetric")
    next(node for node in narrow.graph.node if node.name == "layer2.0.conv2.DQ").input[2] = (
        "elsewhere"
    )
    with pytest.raises(BadArtifact, match=r"layer2\.0\.conv2: its zero point is not a constant"):
        run_pass(MergeGroups(32), narrow)


def test_groups_that_do_not_fit_the_weight_are_refused(fp32: onnx.ModelProto) -> None:
    broken = copy_of(fp32)
    next(a for a in convs(broken)["layer2.0.conv2"].attribute if a.name == "group").i = 7
    with pytest.raises(BadArtifact, match=r"layer2\.0\.conv2 has 7 groups"):
        run_pass(MergeGroups(32), broken)


def build(proto: onnx.ModelProto) -> None:
    """Build an engine ahead of time, as the toolkit does; raises EngineRefused where TensorRT-RTX
    refuses the graph.
    """
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(profiles=(BatchRange(min=1, opt=8, max=16),), targets=("sm_89",))
    shapes = {"input": (None, 1, 8, 8)}
    built = engine_from_onnx(
        proto.SerializeToString(), LIBRARIES["trt-rtx"], options, shapes=shapes
    )
    assert built.data


@pytest.mark.parametrize("least_width", [16, 1_000_000])
def test_tensorrt_rtx_builds_merged_float16_graphs(least_width: int, fp16: onnx.ModelProto) -> None:
    merged, names, *_ = run_pass(MergeGroups(least_width), fp16)
    build(merged)
    build(run_pass(InsertFp32Islands(names), merged).proto)


def test_tensorrt_rtx_refuses_groups_that_only_claim_to_be_merged(fp16: onnx.ModelProto) -> None:
    claimed, _, *_ = run_pass(MergeGroups(16), fp16)
    next(a for a in convs(claimed)["layer1.0.conv2"].attribute if a.name == "group").i = 8
    with pytest.raises(EngineRefused):
        build(claimed)


def graph_macs(proto: onnx.ModelProto) -> int:
    """Multiply-accumulates of the convolutions and the classifier, for one image."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    total = 0
    for node in inferred.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            total += int(np.prod(shapes[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
    return total


@pytest.mark.exhaustive
@pytest.mark.slow
def test_macs_of_a_merged_resnext50_are_those_that_were_computed_for_it() -> None:
    config = variant("resnext50_32x4d")
    proto = onnx_from_torch(load_weights("seeded:0", config), BatchRange.parse("1:8"))
    assert graph_macs(proto) == merged_macs(config, 1)
    merged, names, *_ = run_pass(MergeGroups(32), proto)
    check(merged)
    assert len(names) == 13  # the last stage's three are 32 wide already
    assert graph_macs(merged) == merged_macs(config, 32) > merged_macs(config, 1)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 224, 224, generator=random).numpy()
    assert error(logits(proto, images), logits(merged, images)) < 1e-5
