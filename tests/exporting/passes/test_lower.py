"""Lowered graphs hold every weight in half precision, exactly as rounded, and compute with nothing
else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper
from torch import nn

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import BadArtifact, EngineRefused, GateFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import variant
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.trt.library import LIBRARIES
from resnext.verify.delivered import delivered_share
from resnext.verify.eager import reference_logits
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.passes import lower as module
from resnext_export.passes.base import run_pass
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.lower import HalfPrecision, Lower, check_lowered
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.tensorrt.engine_from_onnx import BuiltEngine, engine_from_onnx

PRECISIONS: tuple[HalfPrecision, ...] = ("fp16", "bf16")
KINDS: dict[HalfPrecision, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES: dict[HalfPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: What the order of float32 sums may change, over the logits' root mean square.
EXACT = 1e-5
#: The same where fifty layers add up in another order; one layer that is rounded otherwise shows
#: above it.
EXACT_50 = 4e-5

both = pytest.mark.parametrize("precision", PRECISIONS)
each_io = pytest.mark.parametrize("native_io", [False, True], ids=["float32-io", "native-io"])


@pytest.fixture(scope="module")
def plain(digits_artifact: Artifact) -> onnx.ModelProto:
    """As shipped: with metadata, and any batch."""
    return onnx.load(digits_artifact.path)


@pytest.fixture(scope="module")
def baked(digits: Weights) -> onnx.ModelProto:
    return onnx_from_torch(digits, BatchRange.parse("1:8"), bake_preprocessing=True)


@pytest.fixture(scope="module")
def pixels(digits: Weights) -> NDArray[np.uint8]:
    return seeded_pixels(digits.config, 64)


@pytest.fixture(scope="module")
def images(digits: Weights, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(pixels)


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def node_of(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in proto.graph.node if node.name == name)
    assert isinstance(node, onnx.NodeProto)
    return node


def tensor_of(proto: onnx.ModelProto, layer: str, slot: int = 1) -> onnx.TensorProto:
    name = node_of(proto, layer).input[slot]
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    assert isinstance(tensor, onnx.TensorProto)
    return tensor


def with_values(
    proto: onnx.ModelProto, layer: str, change: Callable[[NDArray[Any]], Any]
) -> onnx.ModelProto:
    changed = copy_of(proto)
    tensor = tensor_of(changed, layer)
    tensor.CopyFrom(
        numpy_helper.from_array(
            np.asarray(change(numpy_helper.to_array(tensor).copy())), tensor.name
        )
    )
    return changed


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, the noted ones checked against inference."""
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def logits(proto: onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": inputs})[0])


def error(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """Largest difference over the root mean square of the reference."""
    assert candidate.shape == reference.shape
    want, got = reference.astype(np.float64), candidate.astype(np.float64)
    return float(np.abs(got - want).max() / np.sqrt(np.mean(want**2)))


def module_names(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]


def exact(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the same values, every half-precision type read as float32: its Casts do
    nothing.
    """
    wide, halves = copy_of(proto), set(KINDS.values())
    del wide.graph.value_info[:]
    for tensor in wide.graph.initializer:
        if tensor.data_type in halves:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float32), tensor.name
                )
            )
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
    return wide


def rounded_eager(weights: Weights, fp32: onnx.ModelProto, dtype: torch.dtype) -> nn.Module:
    """Eager float32 PyTorch without batch norms, with the float32 graph's weights rounded to
    ``dtype`` by PyTorch.
    """
    model = load_model(weights)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            for slot, kind in enumerate(("weight", "bias"), 1):
                folded = torch.from_numpy(numpy_helper.to_array(tensor_of(fp32, name, slot)).copy())
                setattr(layer, kind, nn.Parameter(folded.to(dtype).float()))
    return model.eval()


def run_eager(
    model: nn.Module, images: NDArray[np.float32], dtype: torch.dtype = torch.float32
) -> NDArray[Any]:
    with torch.inference_mode():
        given: torch.Tensor = model.to(dtype)(torch.from_numpy(images).to(dtype))
        return given.float().numpy()


@both
@each_io
def test_all_arithmetic_is_in_half_precision(
    precision: HalfPrecision, native_io: bool, plain: onnx.ModelProto
) -> None:
    lowered = run_pass(Lower(precision, native_io=native_io), plain).proto
    onnx.checker.check_model(lowered, full_check=True)
    found, half = kinds(lowered), KINDS[precision]
    for node in lowered.graph.node:
        wanted = {half, TensorProto.FLOAT} if node.op_type == "Cast" else {half}
        names = (*node.input, *node.output)
        assert {found[name] for name in names if found[name] != TensorProto.INT64} == wanted
    assert {t.data_type for t in lowered.graph.initializer} == {half, TensorProto.INT64}
    casts = [node.name for node in lowered.graph.node if node.op_type == "Cast"]
    assert casts == ([] if native_io else [f"input.to_{precision}", "logits.to_fp32"])
    io = [
        value.type.tensor_type.elem_type for value in (*lowered.graph.input, *lowered.graph.output)
    ]
    assert io == ([half] * 2 if native_io else [TensorProto.FLOAT] * 2)


@both
@each_io
def test_baked_normalization_stays_in_float32(
    precision: HalfPrecision, native_io: bool, baked: onnx.ModelProto
) -> None:
    lowered = run_pass(Lower(precision, native_io=native_io), baked).proto
    onnx.checker.check_model(lowered, full_check=True)
    found, half = kinds(lowered), KINDS[precision]
    before = {node.name for node in baked.graph.node}
    added = [node.name for node in lowered.graph.node if node.name not in before]
    assert added == [f"permute.to_{precision}"] + ([] if native_io else ["logits.to_fp32"])
    assert found["input"] == TensorProto.UINT8
    assert found["logits"] == (half if native_io else TensorProto.FLOAT)
    for node in lowered.graph.node:
        if node.op_type in ("Div", "Sub"):
            assert {found[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
        if node.op_type in ("Conv", "Gemm", "Relu"):
            assert {found[name] for name in node.input} == {half}
    kept = {t.name for t in lowered.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert kept == {
        name
        for node in baked.graph.node
        if node.op_type in ("Div", "Sub")
        for name in node.input[1:]
    }


@both
@each_io
def test_everything_else_stays(
    precision: HalfPrecision, native_io: bool, plain: onnx.ModelProto
) -> None:
    before = plain.SerializeToString()
    lowered = run_pass(Lower(precision, native_io=native_io), plain).proto
    assert plain.SerializeToString() == before
    kept = [node for node in lowered.graph.node if node.op_type != "Cast"]
    assert [node.name for node in kept] == [node.name for node in plain.graph.node]
    for old, new in zip(plain.graph.node, kept, strict=True):
        assert (old.op_type, list(old.attribute)) == (new.op_type, list(new.attribute))
        assert list(old.metadata_props) == list(new.metadata_props) != []
    assert list(lowered.metadata_props) == list(plain.metadata_props) != []
    assert (lowered.producer_name, lowered.producer_version) == (
        plain.producer_name,
        plain.producer_version,
    )
    assert lowered.opset_import[0].version == {"fp16": 20, "bf16": 22}[precision]
    shapes = [value.type.tensor_type.shape for value in (*plain.graph.input, *plain.graph.output)]
    assert [
        v.type.tensor_type.shape for v in (*lowered.graph.input, *lowered.graph.output)
    ] == shapes
    assert {shape.dim[0].dim_param for shape in shapes} == {"batch"}


@both
def test_every_tensor_has_a_shape_that_begins_with_the_batch(
    precision: HalfPrecision, plain: onnx.ModelProto
) -> None:
    lowered = run_pass(Lower(precision), plain).proto
    noted = {value.name: value.type.tensor_type.shape.dim for value in lowered.graph.value_info}
    inner = {name for node in lowered.graph.node for name in node.output} - {"logits"}
    assert set(noted) == inner
    assert {dim[0].dim_param for dim in noted.values()} == {"batch"}
    assert all(size.dim_value for dim in noted.values() for size in dim[1:])


def test_constants_are_rounded_to_the_nearest_and_ties_to_even(plain: onnx.ModelProto) -> None:
    ties = {
        "bf16": (
            [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20],
            [1, 1 + 2.0**-6, 1 + 2.0**-7],
        ),
        "fp16": (
            [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-20],
            [1, 1 + 2.0**-9, 1 + 2.0**-10],
        ),
    }

    def planted(values: list[float]) -> onnx.ModelProto:
        return with_values(
            plain,
            "conv1",
            lambda w: np.concatenate([np.array(values, np.float32), w.flat[3:]]).reshape(w.shape),
        )

    for precision in PRECISIONS:
        given, wanted = ties[precision]
        weight = numpy_helper.to_array(
            tensor_of(run_pass(Lower(precision), planted(given)).proto, "conv1")
        )
        assert weight.flat[:3].astype(np.float64).tolist() == wanted


@both
def test_values_and_wiring_are_exactly_those_of_pytorch(
    precision: HalfPrecision,
    digits: Weights,
    plain: onnx.ModelProto,
    baked: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    images: NDArray[np.float32],
) -> None:
    want = run_eager(rounded_eager(digits, plain, DTYPES[precision]), images)
    assert (
        error(reference_logits(digits, images), want) > 20 * EXACT
    )  # or this would compare unrounded weights
    for native_io in (False, True):
        assert (
            error(
                want,
                logits(exact(run_pass(Lower(precision, native_io=native_io), plain).proto), images),
            )
            < EXACT
        )
        assert (
            error(
                want,
                logits(exact(run_pass(Lower(precision, native_io=native_io), baked).proto), pixels),
            )
            < EXACT
        )


def cut_off(array: NDArray[Any], kind: Any) -> NDArray[Any]:
    """Rounded towards zero."""
    near = array.astype(kind)
    bits = near.view(np.uint16) - (np.abs(near.astype(np.float32)) > np.abs(array)).astype(
        np.uint16
    )
    cut: NDArray[Any] = bits.view(kind)
    return cut


@both
def test_other_values_or_wiring_are_caught(
    precision: HalfPrecision, digits: Weights, plain: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    want = run_eager(rounded_eager(digits, plain, DTYPES[precision]), images)
    kind = helper.tensor_dtype_to_np_dtype(KINDS[precision])
    lowered = run_pass(Lower(precision), plain).proto

    def planted(layer: str, change: Callable[[NDArray[Any]], NDArray[Any]], slot: int = 1) -> float:
        changed = copy_of(lowered)
        held = tensor_of(changed, layer, slot)
        held.CopyFrom(
            numpy_helper.from_array(
                change(numpy_helper.to_array(tensor_of(plain, layer, slot))).astype(kind), held.name
            )
        )
        return error(want, logits(exact(changed), images))

    assert planted("layer2.0.conv2", lambda given: given) < EXACT
    assert planted("layer2.0.conv2", lambda given: cut_off(given, kind)) > EXACT
    assert planted("layer2.0.conv2", lambda given: np.roll(given, 1, axis=0)) > EXACT
    assert planted("layer3.0.conv1", lambda given: given[::-1], slot=2) > EXACT
    unrounded = exact(lowered)
    for slot in (1, 2):
        tensor_of(unrounded, "layer2.0.conv2", slot).CopyFrom(
            tensor_of(plain, "layer2.0.conv2", slot)
        )
    assert error(want, logits(unrounded, images)) > EXACT


def test_native_fp16_takes_and_gives_fp16(
    plain: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    given = logits(run_pass(Lower("fp16", native_io=True), plain).proto, images.astype(np.float16))
    assert given.dtype == np.float16
    assert error(logits(run_pass(Lower("fp16"), plain).proto, images), given) < 2e-3


def test_a_fixed_batch_stays_fixed(static_artifact: Artifact, images: NDArray[np.float32]) -> None:
    fixed = onnx.load(static_artifact.path)
    lowered = run_pass(Lower("fp16"), fixed).proto
    onnx.checker.check_model(lowered, full_check=True)
    assert {
        value.type.tensor_type.shape.dim[0].dim_value for value in lowered.graph.value_info
    } == {3}
    assert error(logits(fixed, images[:3]), logits(lowered, images[:3])) < 5e-3


@pytest.mark.parametrize("size", [1, 7])
def test_bfloat16_activations_lose_what_pytorchs_own_lose(
    size: int, digits: Weights, plain: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    """OpenVINO computes the bf16 graph itself, as far as the processor can; in float32 it loses a
    little less.
    """
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    network = core.read_model(run_pass(Lower("bf16"), plain).proto.SerializeToString())
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    given = np.concatenate([compiled([images[at : at + size]])[0] for at in range(0, 63, size)])
    reference = reference_logits(digits, images[:63])
    eager = run_eager(load_model(digits), images[:63], torch.bfloat16)
    assert 1e-3 < error(reference, eager) < 5e-2
    assert error(reference, given) < 2 * error(reference, eager)


def test_onnx_runtime_has_no_bfloat16_convolution_on_cpus(
    plain: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    """Why bf16 is proven by its exact values: the day this fails, prove it by running it."""
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        logits(run_pass(Lower("bf16"), plain).proto, images)


def test_other_reformulations_take_lowered_graphs(
    plain: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    for precision in PRECISIONS:
        lowered = run_pass(Lower(precision), plain).proto
        merged, changed, *_ = run_pass(MergeGroups(32), lowered)
        islands = run_pass(InsertFp32Islands(["layer2.0.conv2"]), lowered).proto
        assert changed
        for proto in (merged, islands):
            onnx.checker.check_model(proto, full_check=True)
            assert error(logits(exact(lowered), images), logits(exact(proto), images)) < EXACT
        after = run_pass(Lower(precision), run_pass(MergeGroups(32), plain).proto).proto
        assert error(logits(exact(merged), images), logits(exact(after), images)) < EXACT


# What cannot be held.


def test_a_weight_beyond_fp16_is_refused_and_named(plain: onnx.ModelProto) -> None:
    def planted(value: float) -> onnx.ModelProto:
        def change(weight: NDArray[Any]) -> NDArray[Any]:
            weight.flat[5] = value
            return weight

        return with_values(plain, "layer2.0.conv3", change)

    with pytest.raises(
        GateFailed,
        match=(
            r"^layer2\.0\.conv3: .*'layer2\.0\.conv3\.weight', 70000, .* fp16's 65504; use bf16 or"
            r" fp32, or `keep_fp32` layer2\.0\.conv3$"
        ),
    ):
        run_pass(Lower("fp16"), planted(-70_000))
    for fits in (65504.0, 65519.0):  # what is nearer to 65504 than to the next is rounded to it
        held = numpy_helper.to_array(
            tensor_of(run_pass(Lower("fp16"), planted(fits)).proto, "layer2.0.conv3")
        )
        assert float(held.max()) == 65504
    run_pass(Lower("bf16"), planted(-70_000))
    with pytest.raises(
        GateFailed, match=r"^layer2\.0\.conv3: .* beyond bf16's 3\.38953e\+38; use fp32, or"
    ):
        run_pass(Lower("bf16"), planted(3.4e38))


def test_a_bias_beyond_fp16_is_refused_too(plain: onnx.ModelProto) -> None:
    changed = copy_of(plain)
    bias = tensor_of(changed, "fc", 2)
    bias.CopyFrom(numpy_helper.from_array(np.full(10, 1e5, np.float32), bias.name))
    with pytest.raises(GateFailed, match=r"^fc: .*'fc\.bias', 100000,"):
        run_pass(Lower("fp16"), changed)


def test_weights_that_vanish_in_bulk_are_refused_and_named(plain: onnx.ModelProto) -> None:
    tiny = with_values(plain, "layer3.0.conv1", lambda w: w * np.float32(1e-6))
    with pytest.raises(
        GateFailed,
        match=(
            r"^layer3\.0\.conv1: 100% of 'layer3\.0\.conv1\.weight' .*largest value is .*e-0.*bf16"
            r" or fp32, or `keep_fp32` layer3\.0\.conv1$"
        ),
    ):
        run_pass(Lower("fp16"), tiny)
    run_pass(Lower("bf16"), tiny)


def test_a_channel_that_training_gave_up_is_no_obstacle(plain: onnx.ModelProto) -> None:
    def give_up(weight: NDArray[Any]) -> NDArray[Any]:
        weight[: 3 * len(weight) // 4] *= np.float32(1e-9)
        return weight

    run_pass(Lower("fp16"), with_values(plain, "layer3.0.conv1", give_up))
    run_pass(Lower("fp16"), with_values(plain, "layer3.0.conv1", np.zeros_like))


@both
def test_a_weight_that_is_not_finite_itself_is_carried_through(
    precision: HalfPrecision, plain: onnx.ModelProto
) -> None:
    """Whether such a network may ship is the exporter's check to say, which compares outputs."""
    spoilt = with_values(plain, "conv1", lambda w: np.full_like(w, np.nan))
    held = numpy_helper.to_array(tensor_of(run_pass(Lower(precision), spoilt).proto, "conv1"))
    assert np.isnan(held.astype(np.float32)).all()


# Graphs of other kinds.


@both
def test_a_constant_left_in_float32_is_refused_and_named(
    precision: HalfPrecision, plain: onnx.ModelProto
) -> None:
    for layer, slot in (("conv1", 1), ("layer2.0.conv2", 1), ("layer3.0.conv3", 2), ("fc", 1)):
        faulty = run_pass(Lower(precision), plain).proto
        check_lowered(faulty, precision)
        name = tensor_of(faulty, layer, slot).name
        tensor_of(faulty, layer, slot).CopyFrom(tensor_of(plain, layer, slot))
        with pytest.raises(
            GateFailed, match=rf"^{layer}: '{name}' is float32 in a {precision} graph"
        ):
            check_lowered(faulty, precision)
        with pytest.raises(onnx.shape_inference.InferenceError):
            onnx.checker.check_model(faulty, full_check=True)
        with pytest.raises(EngineRefused):
            build(faulty, (1, 8, 8))


def test_a_converter_that_skips_a_constant_is_caught(
    plain: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.rounded

    def skips(
        array: NDArray[np.float32], precision: HalfPrecision, layer: str, *args: Any, **more: Any
    ) -> NDArray[Any]:
        return array if layer == "layer2.0.conv2" else real(array, precision, layer, *args, **more)

    monkeypatch.setattr(module, "rounded", skips)
    with pytest.raises(
        GateFailed, match=r"^layer2\.0\.conv2: 'layer2\.0\.conv2\.weight' is float32 "
    ):
        run_pass(Lower("bf16"), plain)


def shared_with_float32(baked: onnx.ModelProto) -> onnx.ModelProto:
    """The normalization divides by the classifier's first bias too, so one constant lies on both
    sides.
    """
    shared = copy_of(baked)
    divide = next(node for node in shared.graph.node if node.op_type == "Div")
    (bias,) = (t for t in shared.graph.initializer if t.name == node_of(shared, "conv1").input[2])
    bias.CopyFrom(numpy_helper.from_array(np.full(16, 255, np.float32), bias.name))
    one = helper.make_node("ReduceMax", [bias.name], ["scale"], "scale", keepdims=0)
    divide.input[1] = "scale"
    shared.graph.node.insert(0, one)
    return shared


@both
def test_a_constant_that_preprocessing_reads_too_is_kept_beside_the_rounded_one(
    precision: HalfPrecision, baked: onnx.ModelProto, pixels: NDArray[np.uint8]
) -> None:
    shared = shared_with_float32(baked)
    lowered = run_pass(Lower(precision), shared).proto
    onnx.checker.check_model(lowered, full_check=True)
    name = node_of(shared, "conv1").input[2]
    assert node_of(lowered, "scale").input[0] == name
    assert node_of(lowered, "conv1").input[2] == f"{name}_{precision}"
    assert error(logits(shared, pixels), logits(exact(lowered), pixels)) < 5e-2


@both
def test_a_weight_that_two_layers_share_is_held_once(
    precision: HalfPrecision, plain: onnx.ModelProto
) -> None:
    tied = copy_of(plain)
    node_of(tied, "layer3.0.conv2").input[2] = node_of(tied, "layer3.0.conv1").input[2]
    lowered = run_pass(Lower(precision), tied).proto
    onnx.checker.check_model(lowered, full_check=True)
    assert len(lowered.graph.initializer) == len(tied.graph.initializer)
    assert (
        node_of(lowered, "layer3.0.conv2").input[2] == node_of(lowered, "layer3.0.conv1").input[2]
    )


@both
def test_a_value_of_a_constant_node_is_lowered_too(
    precision: HalfPrecision, plain: onnx.ModelProto
) -> None:
    constant = copy_of(plain)
    held = tensor_of(constant, "fc", 2)
    constant.graph.node.insert(0, helper.make_node("Constant", [], [held.name], "bias", value=held))
    constant.graph.initializer.remove(held)
    lowered = run_pass(Lower(precision), constant).proto
    onnx.checker.check_model(lowered, full_check=True)
    assert node_of(lowered, "bias").attribute[0].t.data_type == KINDS[precision]


def test_what_is_no_float32_graph_is_refused(plain: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="is float16; give the float32 graph"):
        run_pass(Lower("bf16"), run_pass(Lower("fp16"), plain).proto)
    with pytest.raises(UsageError, match="is bfloat16; give the float32 graph"):
        run_pass(Lower("bf16"), run_pass(Lower("bf16"), plain).proto)
    quantized = copy_of(plain)
    node_of(quantized, "node_relu").op_type = "DynamicQuantizeLinear"
    with pytest.raises(
        UsageError, match=r"node_relu \(DynamicQuantizeLinear\).* lower first, then quantize"
    ):
        run_pass(Lower("fp16"), quantized)
    outside = copy_of(plain)
    tensor_of(outside, "conv1").data_location = TensorProto.EXTERNAL
    with pytest.raises(BadArtifact, match="in another file"):
        run_pass(Lower("fp16"), outside)
    broken = copy_of(plain)
    next(node for node in broken.graph.node if node.op_type == "Add").input[0] = (
        "relu"  # 16 channels and 64
    )
    with pytest.raises(BadArtifact, match="inconsistent"):
        run_pass(Lower("fp16"), broken)


def test_an_operator_that_the_higher_opset_defines_anew_is_refused(plain: onnx.ModelProto) -> None:
    other = copy_of(plain)
    node_of(other, "node_relu").op_type = "HardSwish"
    with pytest.raises(
        UsageError, match="raise opset 20 to 22, which bf16 needs: HardSwish has changed in between"
    ):
        run_pass(Lower("bf16"), other)
    run_pass(Lower("fp16"), other)
    other.opset_import[0].version = 23  # nothing to raise
    assert run_pass(Lower("bf16"), other).proto.opset_import[0].version == 23


@pytest.mark.parametrize("operator", sorted(module._ONLY_MORE_TYPES))
def test_opset_22_only_adds_types_to_an_operator(operator: str) -> None:
    def definition(opset: int) -> tuple[Any, ...]:
        schema = defs.get_schema(operator, opset)
        attributes = [
            (a.name, a.type, a.required, str(a.default_value)) for a in schema.attributes.values()
        ]
        slots = [
            [(s.name, s.option, s.description) for s in side]
            for side in (schema.inputs, schema.outputs)
        ]
        # The one sentence that a definition gained without changing it; see there.
        told = str(schema.doc).replace(
            " Sliding windows that would start in the right padded region are ignored.", ""
        )
        return sorted(attributes), slots, inspect.cleandoc(told)

    def types(opset: int) -> dict[str, set[str]]:
        return {
            c.type_param_str: set(c.allowed_type_strs)
            for c in defs.get_schema(operator, opset).type_constraints
        }

    assert definition(20) == definition(22)
    assert (
        defs.get_schema(operator, 20).since_version != defs.get_schema(operator, 22).since_version
    )
    assert all(types(20)[name] <= types(22)[name] for name in types(20))


def test_a_definition_that_changed_more_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        test_opset_22_only_adds_types_to_an_operator("GroupNormalization")


# TensorRT.


def build(proto: onnx.ModelProto, shape: tuple[int, ...], target: str = "sm_89") -> BuiltEngine:
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(profiles=(BatchRange(min=1, opt=8, max=16),), targets=(target,))
    return engine_from_onnx(
        proto.SerializeToString(), LIBRARIES["trt-rtx"], options, shapes={"input": (None, *shape)}
    )


def delivered(built: BuiltEngine, weights: Weights, precision: HalfPrecision) -> float:
    found = delivered_from_engine(built.layers, "cuda:0")
    return delivered_share(
        found, weights.config, {"fp16": "float16", "bf16": "bfloat16"}[precision]
    )


@both
@each_io
@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
def test_tensorrt_rtx_computes_all_of_it_as_asked(
    precision: HalfPrecision, native_io: bool, target: str, digits: Weights, plain: onnx.ModelProto
) -> None:
    built = build(run_pass(Lower(precision, native_io=native_io), plain).proto, (1, 8, 8), target)
    assert delivered(built, digits, precision) == 1.0


@both
def test_tensorrt_rtx_takes_pixels(
    precision: HalfPrecision, digits: Weights, baked: onnx.ModelProto
) -> None:
    assert (
        delivered(build(run_pass(Lower(precision), baked).proto, (8, 8, 1)), digits, precision)
        == 1.0
    )


def test_a_layer_in_float32_lowers_what_is_delivered(
    digits: Weights, plain: onnx.ModelProto
) -> None:
    assert delivered(build(plain, (1, 8, 8)), digits, "bf16") == 0.0
    assert delivered(build(run_pass(Lower("fp16"), plain).proto, (1, 8, 8)), digits, "bf16") == 0.0


@pytest.fixture(scope="module")
def resnext50() -> tuple[Weights, onnx.ModelProto]:
    weights = load_weights("seeded", variant("resnext50_32x4d"))
    return weights, onnx_from_torch(weights, BatchRange.parse("1:8"))


@pytest.mark.exhaustive
@both
@each_io
def test_resnext50_is_lowered_and_built_whole(
    precision: HalfPrecision, native_io: bool, resnext50: tuple[Weights, onnx.ModelProto]
) -> None:
    weights, fp32 = resnext50
    lowered = run_pass(Lower(precision, native_io=native_io), fp32).proto
    onnx.checker.check_model(lowered, full_check=True)
    for target in ("sm_89", "sm_120"):
        assert delivered(build(lowered, (3, 224, 224), target), weights, precision) == 1.0
    if native_io:
        return
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 2))
    want = run_eager(rounded_eager(weights, fp32, DTYPES[precision]), images)
    wide = exact(lowered)
    assert error(want, logits(wide, images)) < EXACT_50
    held, given = tensor_of(wide, "layer3.4.conv2"), tensor_of(fp32, "layer3.4.conv2")
    cut = cut_off(numpy_helper.to_array(given), helper.tensor_dtype_to_np_dtype(KINDS[precision]))
    held.CopyFrom(numpy_helper.from_array(cut.astype(np.float32), held.name))
    assert error(want, logits(wide, images)) > EXACT_50
