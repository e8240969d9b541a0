"""Activation ranges are those of the network, and a layer that a type cannot hold is called by its
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import BadArtifact, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import HALVES, PRECISIONS
from resnext.weights.spec import Weights, load_model
from resnext_export.calibration import activations as module
from resnext_export.calibration.activations import ActivationRange, activation_ranges, overflows
from resnext_export.convert.onnx_from_torch import onnx_from_torch
from resnext_export.passes.base import run_pass
from resnext_export.passes.lower import HalfPrecision, Lower

FAULTY = "layer2.0.conv3"


@pytest.fixture(scope="module")
def fp32(digits_artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(digits_artifact.path)


@pytest.fixture(scope="module")
def images(digits: Weights) -> NDArray[np.float32]:
    return digits.preprocessing.normalize(seeded_pixels(digits.config, 7))


def scaled(proto: onnx.ModelProto, layer: str, factor: float) -> onnx.ModelProto:
    """The weights and bias of ``layer`` multiplied by ``factor``."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    (names,) = (node.input[1:] for node in changed.graph.node if node.name == layer)
    for tensor in changed.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor) * np.float32(factor), tensor.name
                )
            )
    return changed


def by_name(ranges: Sequence[ActivationRange]) -> dict[str, ActivationRange]:
    assert len({each.node for each in ranges}) == len(ranges)
    return {each.node: each for each in ranges}


def test_ranges_are_those_that_pytorch_gives(
    digits: Weights, fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    seen: dict[str, Tensor] = {}
    model = load_model(digits)
    norms = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "0": "1"}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            stem, _, last = name.rpartition(".")
            after = name if isinstance(layer, nn.Linear) else f"{stem}.{norms[last]}".lstrip(".")
            model.get_submodule(after).register_forward_hook(
                lambda _module, _args, output, name=name: seen.__setitem__(name, output.clone())
            )
    with torch.inference_mode():
        model(torch.from_numpy(images))
    found = by_name(activation_ranges(fp32, images))
    assert set(seen) == {name for name in found if not name.startswith("node_add")}
    assert sum(name.startswith("node_add") for name in found) == 3  # one for each block
    for name, output in seen.items():
        size = output.abs()
        assert found[name].largest == pytest.approx(float(size.max()), rel=1e-5)
        assert found[name].smallest == pytest.approx(float(size[size > 0].min()), rel=0.5, abs=1e-6)
        assert found[name].vanishing == pytest.approx(
            float((size < 2.0**-24).float().mean()), abs=1e-3
        )


def test_a_file_gives_the_same_as_the_model(
    digits_artifact: Artifact, images: NDArray[np.float32]
) -> None:
    from_file = activation_ranges(digits_artifact.path, images)
    assert from_file == activation_ranges(onnx.load(digits_artifact.path), images)


@pytest.mark.parametrize("budget", [1, 4 * 9000, 1 << 20])
def test_little_memory_gives_the_same_ranges(
    budget: int, fp32: onnx.ModelProto, images: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = activation_ranges(fp32, images)
    runs: list[int] = []
    real = module._run

    def counted(*args: Any) -> list[NDArray[Any]]:
        values = real(*args)
        runs.append(sum(value.nbytes for value in values))
        return values

    monkeypatch.setattr(module, "_run", counted)
    monkeypatch.setattr(module, "_BUDGET_BYTES", budget)
    pieces = activation_ranges(fp32, images)
    assert [each.node for each in pieces] == [each.node for each in whole]
    for piece, one in zip(pieces, whole, strict=True):
        assert piece.largest == pytest.approx(one.largest, rel=1e-5)
        assert piece.vanishing == pytest.approx(one.vanishing, abs=1e-3)
    largest_alone = 4 * 64 * 8 * 8  # one image's worth of layer1.0.conv3
    assert max(runs) <= max(budget, largest_alone)
    assert (len(runs) > 1) == (budget < 1 << 20)


def test_the_share_that_vanishes_weighs_images_alike(
    fp32: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven images in runs of three, three and one; all but the last vanish."""
    images = np.zeros((7, 1, 8, 8), np.float32)
    images[:6] = 1e-9
    bare = scaled(fp32, "conv1", 1.0)
    bias = next(tensor for tensor in bare.graph.initializer if tensor.name == "conv1.weight_bias")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(16, np.float32), bias.name))
    alone = by_name(activation_ranges(bare, images[:6]))["conv1"].vanishing
    assert alone > 0.99
    sizes = 4 * sum(size for _, _, size in module._watched(bare))
    monkeypatch.setattr(module, "_BUDGET_BYTES", 3 * sizes)
    assert by_name(activation_ranges(bare, images))["conv1"].vanishing == pytest.approx(
        alone * 6 / 7
    )


def test_a_fixed_batch_is_filled_up_and_not_counted_twice(
    static_artifact: Artifact, fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    fixed = onnx.load(static_artifact.path)
    for count in (1, 3, 7):
        for ours, theirs in zip(
            activation_ranges(fixed, images[:count]),
            activation_ranges(fp32, images[:count]),
            strict=True,
        ):
            assert ours.largest == pytest.approx(theirs.largest, rel=1e-5)
            assert ours.vanishing == pytest.approx(theirs.vanishing, abs=1e-3)


def test_pixels_are_taken_where_the_graph_normalizes(
    digits: Weights, fp32: onnx.ModelProto
) -> None:
    pixels = seeded_pixels(digits.config, 2)
    proto = onnx_from_torch(digits, BatchRange.parse("1:8"), bake_preprocessing=True)
    baked = by_name(activation_ranges(proto, pixels))
    plain = by_name(activation_ranges(fp32, digits.preprocessing.normalize(pixels)))
    assert {name for name in baked if not name.startswith("node_add")} == {
        name for name in plain if not name.startswith("node_add")
    }
    assert len(baked) == len(plain)  # arithmetic of shapes is left out
    assert baked["fc"].largest == pytest.approx(plain["fc"].largest, rel=1e-5)


def test_a_layer_beyond_fp16_is_named_and_bf16_passes(
    fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    before = by_name(activation_ranges(fp32, images))
    assert overflows(before.values(), "fp16") == ()
    ranges = activation_ranges(scaled(fp32, FAULTY, 70_000 / before[FAULTY].largest), images)
    found = overflows(ranges, "fp16")
    assert (found[0].node, found[0].beyond) == (FAULTY, True)
    assert found[0].largest == pytest.approx(70_000, rel=1e-4)
    assert str(found[0]) == "layer2.0.conv3 reaches 70000, beyond fp16's 65504; use bf16 or fp32"
    assert not {each.node for each in found} & {
        "conv1",
        "layer1.0.conv3",
        "layer2.0.conv1",
        "layer2.0.conv2",
    }
    assert overflows(ranges, "bf16") == ()


def test_the_named_layer_is_what_fp16_itself_loses(
    digits: Weights, fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    """The same fault in PyTorch's own fp16: that layer, and none before it, puts out infinity."""
    largest = by_name(activation_ranges(fp32, images))[FAULTY].largest
    model = load_model(digits).half()
    norm = model.get_submodule("layer2.0.bn3")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.mul_(90_000 / largest)
        norm.bias.mul_(90_000 / largest)
    infinite: list[str] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda _module, _args, output, name=name: (
                    infinite.append(name) if output.isinf().any() else None
                )
            )
    with torch.inference_mode():
        model(torch.from_numpy(images).half())
    assert infinite[0] == "layer2.0.bn3"


def test_headroom_is_a_warning(fp32: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    largest = by_name(activation_ranges(fp32, images))[FAULTY].largest
    near = [
        each
        for each in activation_ranges(scaled(fp32, FAULTY, 40_000 / largest), images)
        if each.node == FAULTY
    ]
    (warning,) = overflows(near, "fp16")
    assert not warning.beyond
    assert str(warning) == "layer2.0.conv3 reaches 40000, close to fp16's 65504; use bf16 or fp32"
    assert overflows(near, "fp16", headroom=1.0) == ()
    assert overflows(near, "fp16", headroom=1.5) == ()
    with pytest.raises(UsageError, match=r"at least 1, got 0\.5"):
        overflows(near, "fp16", headroom=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_is_not_finite_is_beyond_every_type(
    value: float, fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    spoilt = images.copy()
    spoilt[3, 0, 4, 4] = value
    ranges = activation_ranges(fp32, spoilt)
    halves: tuple[HalfPrecision, ...] = ("fp16", "bf16")
    for precision in halves:
        assert overflows(ranges, precision)[0].node == "conv1"
        assert overflows(ranges, precision)[0].beyond
    assert by_name(activation_ranges(fp32, spoilt[:3])) != by_name(ranges)


def test_the_largest_values_are_those_of_the_types() -> None:
    types: dict[HalfPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
    assert {name: torch.finfo(dtype).max for name, dtype in types.items()} == {
        name: PRECISIONS[name].largest for name in HALVES
    }
    assert float(np.finfo(np.float16).smallest_subnormal) == module.FP16_TINIEST


def test_what_cannot_be_measured_is_refused(
    fp32: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        activation_ranges(fp32, images[:0])
    with pytest.raises(UsageError, match=r"conv1 computes in float16; .* float32 graph"):
        activation_ranges(run_pass(Lower("fp16"), fp32).proto, images)
    with pytest.raises(SessionFailed, match="ONNX Runtime refuses the images"):
        activation_ranges(fp32, images[:, :, :4])
    open_height = onnx.ModelProto()
    open_height.CopyFrom(fp32)
    del open_height.graph.value_info[:]
    open_height.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    with pytest.raises(BadArtifact, match="output of conv1 is unknown; export with fixed height"):
        activation_ranges(open_height, images)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])], "g", fp32.graph.input, []
    )
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    with pytest.raises(UsageError, match="no convolution, matrix product or Add"):
        activation_ranges(helper.make_model(graph), images)


def test_the_model_is_left_as_it_is(fp32: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    before = fp32.SerializeToString()
    activation_ranges(fp32, images)
    assert fp32.SerializeToString() == before
