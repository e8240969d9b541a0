"""float8 graphs: weights rounded as the format says, the rest untouched, and TensorRT-RTX
multiplies in float8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import BadInput, EngineRefused
from resnext.images.synthetic import seeded_pixels
from resnext.precision import Gate
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.trt.library import LIBRARIES
from resnext.verify.delivered import undelivered
from resnext.verify.parity import Parity, compare
from resnext.weights.spec import Weights, load_weights
from resnext_export.calibration.collect import calibrate
from resnext_export.calibration.ranges import Ranges
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.passes.base import run_pass
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.quantize_fp8 import QuantizeFp8
from resnext_export.tensorrt.engine_from_onnx import engine_from_onnx

E4M3 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
#: Float8 loses 0.2 to 0.35 of the logits' RMS on trained digits and 1.2 on seeded ResNeXt-50, so
#: the sharp part is the ratio to what it loses if calibrated on the very images that are compared.
GATE = Gate(max_error=2.0, min_cosine=0.9, min_top1=0.5, max_error_ratio=2.0)
STEM = ("conv1", "1 input channels, fewer than 16")
NARROW = (
    ("layer1.0.conv2", "4 channels a group, fewer than 32"),
    ("layer2.0.conv2", "8 channels a group, fewer than 32"),
    ("layer3.0.conv2", "16 channels a group, fewer than 32"),
)


@pytest.fixture(scope="module")
def fp32(digits_artifact: Artifact) -> onnx.ModelProto:
    proto = onnx.load(digits_artifact.path)
    assert isinstance(proto, onnx.ModelProto)
    return proto


@pytest.fixture(scope="module")
def fp16(digits: Weights, fp32: onnx.ModelProto) -> onnx.ModelProto:
    proto = run_pass(Lower("fp16"), onnx_from_torch(digits, BatchRange.parse("1:8"))).proto
    proto.metadata_props.extend(fp32.metadata_props)
    return proto


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    pytest.importorskip("sklearn")
    from resnext.images.sources import image_source

    source = image_source("digits", digits.preprocessing, split="test")
    return digits.preprocessing.normalize(source.pixels(0, len(source)))


@pytest.fixture(scope="module")
def ranges(digits_artifact: Artifact, images: NDArray[np.float32]) -> Ranges:
    return calibrate(
        digits_artifact.path, [images[:128]], source="test images", source_sha256="a" * 64
    )


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def arrays(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def put(proto: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def convs(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in proto.graph.node if node.op_type == "Conv"}


def lowered(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The DequantizeLinear that each float8 convolution reads its weight from."""
    made = makers(proto)
    return {
        name: made[conv.input[1]] for name, conv in convs(proto).items() if conv.input[1] in made
    }


def logits(proto: onnx.ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    options = ort.SessionOptions()
    # Its optimizations take float8 for uint8: they drop the Relu before a Q, and put float8 into
    # QLinearConv.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"input": images})[0])


@pytest.fixture(scope="module")
def baseline(
    fp32: onnx.ModelProto, digits_artifact: Artifact, images: NDArray[np.float32]
) -> NDArray[Any]:
    """Logits of a float8 graph that was calibrated on the very images that are compared."""
    best = calibrate(digits_artifact.path, [images], source="all", source_sha256="b" * 64)
    return logits(run_pass(QuantizeFp8(best), fp32).proto, images)


def judged(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    images: NDArray[Any],
    baseline: NDArray[Any],
) -> Parity:
    return compare(
        logits(reference, images), logits(candidate, images), gate=GATE, baseline=baseline
    )


def worst_in_steps(proto: onnx.ModelProto, quantized: onnx.ModelProto) -> float:
    """Largest distance of a weight from its original, in steps of E4M3 at its size: three bits
    behind the first.
    """
    before, after, worst = arrays(proto), arrays(quantized), 0.0
    for name, node in lowered(quantized).items():
        weight = before[convs(proto)[name].input[1]].astype(np.float64)
        values, scale, zero = (after[part] for part in node.input)
        assert (values.dtype, zero.dtype, scale.dtype) == (
            E4M3,
            E4M3,
            before[convs(proto)[name].input[1]].dtype,
        )
        assert (values.shape, scale.shape, zero.shape) == (
            weight.shape,
            weight.shape[:1],
            weight.shape[:1],
        )
        assert not zero.astype(np.float32).any()
        each = scale.astype(np.float64).reshape(-1, 1, 1, 1)
        # Below 2**-6 the format's steps stay the same: subnormals.
        step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(weight / each), 2.0**-6))) - 3)
        worst = max(worst, float((np.abs(values.astype(np.float64) - weight / each) / step).max()))
    return worst


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("least_width", [32, 1])
def test_weights_are_rounded_to_the_nearest_float8(
    precision: str, least_width: int, ranges: Ranges, request: pytest.FixtureRequest
) -> None:
    proto = request.getfixturevalue(precision)
    quantized, _, left, _ = run_pass(QuantizeFp8(ranges, least_width), proto)
    assert len(lowered(quantized)) == 13 - len(left)
    assert worst_in_steps(proto, quantized) <= 0.5 + 1e-3
    before, after = arrays(proto), arrays(quantized)
    for name, node in lowered(quantized).items():
        largest = np.abs(before[convs(proto)[name].input[1]].astype(np.float64)).reshape(
            len(after[node.input[1]]), -1
        )
        np.testing.assert_allclose(after[node.input[1]], largest.max(axis=1) / 448, rtol=1e-3)
        assert float(after[node.input[0]].astype(np.float32).max()) <= 448


def test_activation_scales_are_what_calibration_found(
    fp32: onnx.ModelProto, ranges: Ranges
) -> None:
    quantized, _, _, _ = run_pass(QuantizeFp8(ranges), fp32)
    held = arrays(quantized)
    found = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert len(found) == len({node.input[0] for node in found}) == 9
    for node in found:
        low, high = ranges.ranges[node.input[0]]
        np.testing.assert_allclose(held[node.input[1]], max(-low, high) / 448, rtol=1e-6)
        assert held[node.input[1]].shape == ()


# Faults.


def one_scale_four_times_too_large(quantized: onnx.ModelProto) -> None:
    name = lowered(quantized)["layer1.0.conv1"].input[1]
    array = arrays(quantized)[name].copy()
    array[len(array) // 2] *= 4
    put(quantized, name, array)


def one_activation_scale_too_small(quantized: onnx.ModelProto) -> None:
    """Values above an eighth of the largest are cut."""
    name = makers(quantized)[convs(quantized)["layer2.0.conv1"].input[0]].input[1]
    put(quantized, name, arrays(quantized)[name] / 8)


def mantissas_cut(quantized: onnx.ModelProto) -> None:
    """The last two of E4M3's three bits of mantissa are lost."""
    for node in lowered(quantized).values():
        array = arrays(quantized)[node.input[0]]
        put(quantized, node.input[0], (array.view(np.uint8) & 0xFC).view(E4M3))


def filters_rotated(quantized: onnx.ModelProto) -> None:
    name = lowered(quantized)["layer2.0.conv1"].input[0]
    put(quantized, name, np.roll(arrays(quantized)[name].view(np.uint8), 1, axis=0).view(E4M3))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("least_width", [32, 1])
def test_float8_stays_close_to_the_original(
    precision: str,
    least_width: int,
    ranges: Ranges,
    images: NDArray[Any],
    baseline: NDArray[Any],
    request: pytest.FixtureRequest,
) -> None:
    proto = request.getfixturevalue(precision)
    outcome = judged(
        proto, run_pass(QuantizeFp8(ranges, least_width), proto).proto, images, baseline
    )
    assert outcome.passed, outcome.failures
    assert outcome.max_error is not None
    assert 1e-2 < outcome.max_error < 0.4  # something was rounded


@pytest.mark.parametrize(
    "fault",
    [
        one_scale_four_times_too_large,
        one_activation_scale_too_small,
        mantissas_cut,
        filters_rotated,
    ],
)
def test_a_fault_is_caught(
    fault: Callable[[onnx.ModelProto], None],
    fp32: onnx.ModelProto,
    ranges: Ranges,
    images: NDArray[Any],
    baseline: NDArray[Any],
) -> None:
    faulty, _, _, _ = run_pass(QuantizeFp8(ranges), fp32)
    fault(faulty)
    assert not judged(fp32, faulty, images, baseline).passed
    if fault is not one_activation_scale_too_small:
        assert worst_in_steps(fp32, faulty) > 1


def test_numpy_computes_the_same_convolution(
    fp32: onnx.ModelProto, ranges: Ranges, images: NDArray[Any]
) -> None:
    """One 1x1 convolution, worked out here from the stored float8 and what it reads."""
    quantized, _, _, _ = run_pass(QuantizeFp8(ranges), fp32)
    conv = convs(quantized)["layer1.0.conv1"]
    rounding = makers(quantized)[makers(quantized)[conv.input[0]].input[0]]
    cut = copy_of(quantized)
    del cut.graph.output[:]
    for name in (rounding.input[0], conv.output[0]):
        cut.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        cut.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given, got = session.run(None, {"input": images[:8]})
    held, node = arrays(quantized), lowered(quantized)["layer1.0.conv1"]
    scale = held[rounding.input[1]].astype(np.float64)
    rounded = (
        np.clip(given / scale, -448, 448).astype(np.float32).astype(E4M3).astype(np.float64) * scale
    )
    weight = held[node.input[0]].astype(np.float64) * held[node.input[1]].astype(
        np.float64
    ).reshape(-1, 1, 1, 1)
    want = np.einsum("nchw,oc->nohw", rounded, weight[:, :, 0, 0]) + held[conv.input[2]].reshape(
        -1, 1, 1
    )
    np.testing.assert_allclose(got, want, atol=1e-4)


# What is left, and what must stay.


def test_narrow_groups_and_the_stem_are_left_and_said_why(
    fp32: onnx.ModelProto, ranges: Ranges
) -> None:
    quantized, _, left, _ = run_pass(QuantizeFp8(ranges), fp32)
    assert left == (STEM, *NARROW)
    assert lowered(quantized).keys() == convs(fp32).keys() - {name for name, _ in left}
    assert run_pass(QuantizeFp8(ranges, 16), fp32).skipped == (
        STEM,
        *((name, why.replace("32", "16")) for name, why in NARROW[:2]),
    )
    assert run_pass(QuantizeFp8(ranges, 1), fp32).skipped == (STEM,)
    before, after = arrays(fp32), arrays(quantized)
    for name, _ in left:
        weight = convs(quantized)[name].input[1]
        np.testing.assert_array_equal(after[weight], before[weight])


def test_merged_groups_are_wide_enough(
    fp32: onnx.ModelProto, ranges: Ranges, images: NDArray[Any], baseline: NDArray[Any]
) -> None:
    merged, _, *_ = run_pass(MergeGroups(32), fp32)
    quantized, _, left, _ = run_pass(QuantizeFp8(ranges), merged)
    assert left == (STEM,)
    assert judged(fp32, quantized, images, baseline).passed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_everything_else_stays(
    precision: str, ranges: Ranges, request: pytest.FixtureRequest
) -> None:
    proto = request.getfixturevalue(precision)
    before = proto.SerializeToString()
    quantized, _, left, _ = run_pass(QuantizeFp8(ranges), proto)
    assert proto.SerializeToString() == before
    assert (
        run_pass(QuantizeFp8(ranges), proto).proto.SerializeToString()
        == quantized.SerializeToString()
    )
    onnx.checker.check_model(quantized, full_check=True)
    assert list(quantized.metadata_props) == list(proto.metadata_props) != []
    assert (quantized.graph.input, quantized.graph.output) == (
        proto.graph.input,
        proto.graph.output,
    )
    assert quantized.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    kept = [node.name for node in quantized.graph.node if "quantize" not in node.op_type.lower()]
    assert kept == [node.name for node in proto.graph.node]
    held = arrays(quantized)
    assert (
        held.keys()
        >= {name for node in quantized.graph.node for name in node.input} & arrays(proto).keys()
    )
    floats = Counter(array.dtype for array in held.values())
    assert floats.keys() == {
        np.dtype({"fp32": "float32", "fp16": "float16"}[precision]),
        E4M3,
        np.dtype("int64"),
    }
    gone = arrays(proto).keys() - held.keys()
    assert gone == {conv.input[1] for name, conv in convs(proto).items() if name not in dict(left)}
    assert quantized.ByteSize() < proto.ByteSize()


def test_a_dead_channel_stays_dead_and_a_tiny_one_alive(
    fp16: onnx.ModelProto, ranges: Ranges
) -> None:
    """float16 has no scale small enough for the second."""
    changed = copy_of(fp16)
    name = convs(changed)["layer1.0.conv1"].input[1]
    weight = arrays(changed)[name].copy()
    weight[3], weight[4] = 0, weight[4] * np.float16(1e-3)
    put(changed, name, weight)
    quantized, _, _, _ = run_pass(QuantizeFp8(ranges), changed)
    values, scale, _ = (
        arrays(quantized)[part] for part in lowered(quantized)["layer1.0.conv1"].input
    )
    back = values.astype(np.float64) * scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert not back[3].any()
    assert np.abs(back[4] - weight[4]).max() < 0.05 * np.abs(weight[4].astype(np.float64)).max()


# The real library.


def build(proto: onnx.ModelProto, weights: Weights, target: str) -> tuple[tuple[str, str], ...]:
    """What did not get float8 in an engine that TensorRT-RTX built ahead of time."""
    pytest.importorskip("tensorrt_rtx")
    config = weights.config
    options = EngineOptions(profiles=(BatchRange(min=1, opt=8, max=16),), targets=(target,))
    shapes = {"input": (None, config.in_channels, *config.input_size)}
    built = engine_from_onnx(
        proto.SerializeToString(), LIBRARIES["trt-rtx"], options, shapes=shapes
    )
    return undelivered(delivered_from_engine(built.layers, "GPU"), config, "float8_e4m3fn")


@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("least_width", [32, 1])
def test_tensorrt_rtx_multiplies_in_float8(
    precision: str,
    target: str,
    least_width: int,
    digits: Weights,
    ranges: Ranges,
    request: pytest.FixtureRequest,
) -> None:
    quantized, _, left, _ = run_pass(
        QuantizeFp8(ranges, least_width), request.getfixturevalue(precision)
    )
    rest = {"fp32": "float32", "fp16": "float16"}[precision]
    assert build(quantized, digits, target) == tuple((name, rest) for name in (*dict(left), "fc"))


def test_tensorrt_rtx_says_where_there_is_no_float8(
    fp32: onnx.ModelProto, digits: Weights, ranges: Ranges
) -> None:
    with pytest.raises(EngineRefused, match="HW-specific datatypes: fp8_e4m3"):
        build(run_pass(QuantizeFp8(ranges), fp32).proto, digits, "sm_86")


def test_types_that_do_not_hold_together_are_refused(
    fp16: onnx.ModelProto, digits: Weights, ranges: Ranges
) -> None:
    mixed, _, _, _ = run_pass(QuantizeFp8(ranges), fp16)
    name = lowered(mixed)["layer1.0.conv1"].input[1]
    put(mixed, name, arrays(mixed)[name].astype(np.float32))
    with pytest.raises(EngineRefused):
        build(mixed, digits, "sm_89")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_resnext50_is_float8_but_for_its_narrow_groups(tmp_path: Any) -> None:
    weights = load_weights("seeded", "resnext50_32x4d")
    artifact = export_onnx(weights, tmp_path / "artifact", check=False)
    pixels = weights.preprocessing.normalize(seeded_pixels(weights.config, 4, seed=1))
    proto = onnx.load(artifact.path)
    ranges = calibrate(artifact.path, [pixels], source="seeded", source_sha256="a" * 64)
    quantized, _, left, _ = run_pass(QuantizeFp8(ranges), proto)
    assert (
        len(left) == 14
    )  # the stem, and the 13 of 16 grouped convolutions that ModelOpt leaves too
    assert worst_in_steps(proto, quantized) <= 0.5 + 1e-3
    assert build(quantized, weights, "sm_89") == tuple(
        (name, "float32") for name in (*dict(left), "fc")
    )


# Bad input.


def refused(proto: onnx.ModelProto, ranges: Ranges, said: str) -> None:
    with pytest.raises(BadInput, match=said) as exc:
        run_pass(QuantizeFp8(ranges), proto)
    assert "\n" not in str(exc.value)


def test_a_graph_that_is_quantized_already_is_refused(
    fp32: onnx.ModelProto, ranges: Ranges
) -> None:
    refused(
        run_pass(QuantizeFp8(ranges), fp32).proto, ranges, r"quantized already \(QuantizeLinear "
    )


def test_an_old_opset_is_refused(fp32: onnx.ModelProto, ranges: Ranges) -> None:
    old = copy_of(fp32)
    old.opset_import[0].version = 18
    refused(old, ranges, "has opset 18, float8 needs 19")


def test_a_graph_of_narrow_groups_alone_is_refused(fp32: onnx.ModelProto, ranges: Ranges) -> None:
    narrow = copy_of(fp32)
    keep = next(node for node in narrow.graph.node if node.name == "conv1")
    del narrow.graph.node[:]
    narrow.graph.node.append(keep)
    refused(narrow, ranges, "no convolution can be float8: conv1 has 1 input channels")


def test_mixed_types_are_refused(fp32: onnx.ModelProto, ranges: Ranges) -> None:
    mixed = copy_of(fp32)
    name = convs(mixed)["layer1.0.conv1"].input[1]
    put(mixed, name, arrays(mixed)[name].astype(np.float16))
    refused(
        mixed,
        ranges,
        "the convolutions are float16 and float32; all must be float32 or all float16",
    )


def test_another_calibration_is_refused(fp32: onnx.ModelProto, ranges: Ranges) -> None:
    refused(fp32, ranges.model_copy(update={"weights_sha256": "0" * 64}), "calibrate this graph")
    fewer = {name: ends for name, ends in ranges.ranges.items() if name != "relu_3"}
    refused(fp32, ranges.model_copy(update={"ranges": fewer}), "no range for tensor 'relu_3'")


def test_a_weight_that_is_not_finite_is_refused(fp32: onnx.ModelProto, ranges: Ranges) -> None:
    poisoned = copy_of(fp32)
    name = convs(poisoned)["layer2.0.conv1"].input[1]
    weight = arrays(poisoned)[name].copy()
    weight[0, 0, 0, 0] = np.inf
    put(poisoned, name, weight)
    refused(poisoned, ranges, r"'layer2\.0\.conv1' contains NaN or infinity")
