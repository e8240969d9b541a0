"""Float32 islands in half-precision graphs: their types hold together, and they compute the same,
only more exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import BadArtifact, EngineRefused, UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.runtimes.trt.library import LIBRARIES
from resnext.weights.spec import Weights
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.passes.base import run_pass
from resnext_export.passes.initializers import Constants
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.lower import Lower
from resnext_export.tensorrt.engine_from_onnx import engine_from_onnx

GROUPED = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
#: What the exporter calls the weight of the middle one in a graph of float16.
WEIGHT = "layer2.0.conv2.weight"


@pytest.fixture(scope="module")
def fp32(digits: Weights) -> onnx.ModelProto:
    return onnx_from_torch(digits, BatchRange.parse("1:8"))


@pytest.fixture(scope="module")
def fp16(digits: Weights) -> onnx.ModelProto:
    proto = run_pass(Lower("fp16"), onnx_from_torch(digits, BatchRange.parse("1:8"))).proto
    helper.set_model_props(proto, {"resnext.model": "digits"})
    return proto


@pytest.fixture(scope="module")
def bf16(fp16: onnx.ModelProto) -> onnx.ModelProto:
    """The float16 graph with every float16 read as bfloat16."""
    proto = copy_of(fp16)
    proto.opset_import[0].version = 22  # the first whose Conv takes bfloat16
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name)
            )
    for value in proto.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    check(proto)
    return proto


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 5))


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def node_of(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in proto.graph.node if node.name == name)
    assert isinstance(node, onnx.NodeProto)
    return node


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, the noted ones checked against inference."""
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def check(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    held = {
        tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in proto.graph.initializer
    }
    for value in proto.graph.value_info:
        kind = value.type.tensor_type
        if value.name in held:
            assert (kind.elem_type, [dim.dim_value for dim in kind.shape.dim]) == held[value.name]
    kinds(proto)


def logits(proto: onnx.ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": images})[0])


def error(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """Largest difference over the root mean square of the reference."""
    assert candidate.shape == reference.shape
    return float(
        np.abs(candidate - reference).max() / np.sqrt(np.mean(reference.astype(np.float64) ** 2))
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "names", [GROUPED[:1], GROUPED, ("conv1", "layer1.0.conv1", "layer1.0.downsample.0")]
)
def test_an_island_is_float32_between_two_casts(
    precision: str, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    proto = request.getfixturevalue(precision)
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    islands = run_pass(InsertFp32Islands(names), proto).proto
    check(islands)
    found = kinds(islands)
    for node in islands.graph.node:
        if node.op_type != "Conv":
            continue
        conv, before = node, node_of(proto, node.name)
        wanted = TensorProto.FLOAT if conv.name in names else half
        assert {found[name] for name in (*conv.input, *conv.output)} == {wanted}
        if conv.name in names:
            into, back = (
                node_of(islands, f"{conv.name}.to_fp32"),
                node_of(islands, f"{conv.name}.to_{precision}"),
            )
            assert (into.input[0], into.output[0]) == (before.input[0], conv.input[0])
            assert (back.input[0], back.output[0]) == (conv.output[0], before.output[0])
            assert conv.output[0] == f"{before.output[0]}_fp32"
            assert found[before.output[0]] == half
    assert len(islands.graph.node) == len(proto.graph.node) + 2 * len(names)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_and_biases_keep_their_values(
    precision: str, request: pytest.FixtureRequest
) -> None:
    proto = request.getfixturevalue(precision)
    islands = run_pass(InsertFp32Islands(GROUPED), proto).proto
    after = {tensor.name: tensor for tensor in islands.graph.initializer}
    assert list(after) == [tensor.name for tensor in proto.graph.initializer]
    retyped = [t.name for t in proto.graph.initializer if after[t.name].data_type != t.data_type]
    assert sorted(retyped) == sorted(
        name for conv in GROUPED for name in node_of(proto, conv).input[1:]
    )
    for tensor in proto.graph.initializer:
        old, new = (
            numpy_helper.to_array(t).astype(np.float64) for t in (tensor, after[tensor.name])
        )
        np.testing.assert_array_equal(new, old)


def test_islands_compute_the_same(fp16: onnx.ModelProto, images: NDArray[Any]) -> None:
    for names in (GROUPED[:1], GROUPED, ("conv1", *GROUPED)):
        assert (
            error(
                logits(fp16, images), logits(run_pass(InsertFp32Islands(names), fp16).proto, images)
            )
            < 2e-3
        )


def test_weights_of_another_convolution_are_caught(
    fp16: onnx.ModelProto, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Constants.replace

    def rotated(
        self: Constants, node: onnx.NodeProto, slot: int, array: NDArray[Any], suffix: str
    ) -> None:
        real(self, node, slot, np.roll(array, 1, axis=0), suffix)

    monkeypatch.setattr(Constants, "replace", rotated)
    islands = run_pass(InsertFp32Islands(GROUPED[:1]), fp16).proto
    check(islands)
    assert error(logits(fp16, images), logits(islands, images)) > 2e-2


def cast_back_forgotten(proto: onnx.ModelProto) -> None:
    back = node_of(proto, "layer2.0.conv2.to_fp16")
    node_of(proto, "layer2.0.conv2").output[0] = back.output[0]
    proto.graph.node.remove(back)


def cast_into_forgotten(proto: onnx.ModelProto) -> None:
    into = node_of(proto, "layer2.0.conv2.to_fp32")
    node_of(proto, "layer2.0.conv2").input[0] = into.input[0]
    proto.graph.node.remove(into)


def weight_left_in_float16(proto: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == WEIGHT)
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), WEIGHT)
    )


def note_left_stale(proto: onnx.ModelProto) -> None:
    """As an exporter that notes weights, and a change that forgets the note, would leave it."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == WEIGHT)
    proto.graph.value_info.append(
        helper.make_tensor_value_info(WEIGHT, TensorProto.FLOAT16, tensor.dims)
    )


FAULTS = (cast_back_forgotten, cast_into_forgotten, weight_left_in_float16, note_left_stale)


@pytest.mark.parametrize("fault", FAULTS)
def test_types_that_do_not_hold_together_are_caught(
    fault: Callable[[onnx.ModelProto], None], fp16: onnx.ModelProto
) -> None:
    islands = run_pass(InsertFp32Islands(GROUPED), fp16).proto
    fault(islands)
    with pytest.raises(onnx.shape_inference.InferenceError):
        check(islands)


def test_everything_else_stays(fp16: onnx.ModelProto) -> None:
    before = fp16.SerializeToString()
    islands = run_pass(InsertFp32Islands(GROUPED), fp16).proto
    assert fp16.SerializeToString() == before
    added = {f"{name}.to_{kind}" for name in GROUPED for kind in ("fp32", "fp16")}
    kept = [node for node in islands.graph.node if node.name not in added]
    assert [node.name for node in kept] == [node.name for node in fp16.graph.node]
    for old, new in zip(fp16.graph.node, kept, strict=True):
        assert old == new or old.name in GROUPED
    assert list(islands.metadata_props) == list(fp16.metadata_props) != []
    assert (islands.ir_version, list(islands.opset_import)) == (
        fp16.ir_version,
        list(fp16.opset_import),
    )
    assert run_pass(InsertFp32Islands(()), fp16).proto.SerializeToString() == before


def test_a_convolution_may_give_the_graphs_output(fp16: onnx.ModelProto) -> None:
    cut = copy_of(fp16)
    conv = node_of(cut, "layer2.0.conv2")
    del cut.graph.node[[node.name for node in cut.graph.node].index(conv.name) + 1 :]
    del cut.graph.output[:]
    cut.graph.output.append(
        next(value for value in cut.graph.value_info if value.name == conv.output[0])
    )
    islands = run_pass(InsertFp32Islands([conv.name]), cut).proto
    check(islands)
    assert islands.graph.output == cut.graph.output
    assert kinds(islands)[conv.output[0]] == TensorProto.FLOAT16


def with_a_twin(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``layer2.0.conv2`` runs again beside itself, with the same weight, and the two results are
    averaged.
    """
    shared = copy_of(proto)
    conv = node_of(shared, "layer2.0.conv2")
    twin = onnx.NodeProto()
    twin.CopyFrom(conv)
    twin.name, twin.output[0] = "twin", "twin_output"
    mean = helper.make_node("Mean", ["own_output", "twin_output"], [conv.output[0]], "mean")
    conv.output[0] = "own_output"
    at = [node.name for node in shared.graph.node].index(conv.name) + 1
    for added in (mean, twin):
        shared.graph.node.insert(at, added)
    check(shared)
    return shared


@pytest.mark.parametrize("names", [["layer2.0.conv2"], ["twin"], ["twin", "layer2.0.conv2"]])
def test_weights_that_others_share_stay_as_they_are(
    names: list[str], fp16: onnx.ModelProto, images: NDArray[Any]
) -> None:
    shared = with_a_twin(fp16)
    islands = run_pass(InsertFp32Islands(names), shared).proto
    check(islands)
    assert error(logits(shared, images), logits(islands, images)) < 2e-3
    wide = {
        name: kinds(islands)[node_of(islands, name).input[1]] for name in ("twin", "layer2.0.conv2")
    }
    assert {name for name, kind in wide.items() if kind == TensorProto.FLOAT} == set(names)


def test_a_shared_weight_retyped_in_place_is_caught(
    fp16: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Constants, "shared", lambda *_: False)
    with pytest.raises(onnx.shape_inference.InferenceError):
        check(run_pass(InsertFp32Islands(["twin"]), with_a_twin(fp16)).proto)


def test_a_tensor_that_has_the_new_name_already_is_no_obstacle(
    fp16: onnx.ModelProto, images: NDArray[Any]
) -> None:
    taken = copy_of(fp16)
    name = f"{node_of(taken, 'layer2.0.conv2').output[0]}_fp32"
    other = node_of(taken, "layer2.0.conv1")
    reader = next(node for node in taken.graph.node if other.output[0] in node.input)
    other.output[0] = reader.input[0] = name
    islands = run_pass(InsertFp32Islands(["layer2.0.conv2"]), taken).proto
    check(islands)
    assert error(logits(taken, images), logits(islands, images)) < 2e-3


def test_a_convolution_that_is_float32_already_is_refused(
    fp32: onnx.ModelProto, fp16: onnx.ModelProto
) -> None:
    with pytest.raises(
        UsageError, match=r"layer1\.0\.conv2 computes in float; .* float16 or bfloat16"
    ):
        run_pass(InsertFp32Islands(GROUPED[:1]), fp32)
    once = run_pass(InsertFp32Islands(GROUPED[:1]), fp16).proto
    with pytest.raises(UsageError, match=r"layer1\.0\.conv2 computes in float;"):
        run_pass(InsertFp32Islands(GROUPED), once)


def test_a_name_that_no_convolution_has_is_refused(fp16: onnx.ModelProto) -> None:
    with pytest.raises(UnknownName, match=r"'layer9\.0\.conv2'.* Known: conv1, "):
        run_pass(InsertFp32Islands(["layer1.0.conv2", "layer9.0.conv2"]), fp16)
    with pytest.raises(UnknownName, match="'fc'"):
        run_pass(InsertFp32Islands(["fc"]), fp16)


@pytest.mark.parametrize("slot", [1, 2])
def test_a_weight_or_bias_that_is_no_constant_is_refused(slot: int, fp16: onnx.ModelProto) -> None:
    computed = copy_of(fp16)
    conv = node_of(computed, "layer2.0.conv2")
    negated = helper.make_node("Neg", [conv.input[slot]], ["computed"], "neg")
    conv.input[slot] = "computed"
    computed.graph.node.insert(0, negated)
    check(computed)
    with pytest.raises(BadArtifact, match=r"layer2\.0\.conv2 .*'computed' is not a constant"):
        run_pass(InsertFp32Islands(GROUPED), computed)


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


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("names", [GROUPED, ("conv1", "layer1.0.conv1", "layer1.0.downsample.0")])
def test_tensorrt_rtx_builds_islands(
    precision: str, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    build(run_pass(InsertFp32Islands(names), request.getfixturevalue(precision)).proto)


@pytest.mark.parametrize(
    "fault", [cast_back_forgotten, cast_into_forgotten, weight_left_in_float16]
)
def test_tensorrt_rtx_refuses_types_that_do_not_hold_together(
    fault: Callable[[onnx.ModelProto], None], fp16: onnx.ModelProto
) -> None:
    islands = run_pass(InsertFp32Islands(GROUPED), fp16).proto
    fault(islands)
    with pytest.raises(EngineRefused):
        build(islands)
