"""Every pass runs between its checks, and what a pass promises is checked on its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from resnext.artifact.files import Artifact
from resnext.errors import GateFailed, UsageError
from resnext_export import passes as package
from resnext_export.calibration.collect import calibrate
from resnext_export.passes.base import Pass, PassResult, run_pass
from resnext_export.passes.correct_bias import CorrectBias
from resnext_export.passes.equalize import Equalize
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.quantize_fp8 import QuantizeFp8
from resnext_export.passes.quantize_int8 import QuantizeInt8

Fault = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def passes(digits_artifact: Artifact) -> dict[str, tuple[Pass, onnx.ModelProto]]:
    """Each pass with options, and a model for it."""
    fp32 = onnx.load(digits_artifact.path)
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32)
    ranges = calibrate(digits_artifact.path, [images], source="noise", source_sha256="a" * 64)
    fp16 = run_pass(Lower("fp16"), fp32).proto
    int8 = run_pass(QuantizeInt8(ranges, "ort"), fp32).proto
    channels = weight_of(fp32, "layer1.0.conv1").dims[0]
    return {
        "Lower": (Lower("fp16"), fp32),
        "InsertFp32Islands": (InsertFp32Islands(["layer1.0.conv2"]), fp16),
        "MergeGroups": (MergeGroups(32), fp32),
        "Equalize": (Equalize({"layer1.0.conv1": (1, *[0] * (channels - 1))}), fp32),
        "CorrectBias": (CorrectBias(fp32, {"layer2.0.conv2": 0.5}), int8),
        "QuantizeInt8": (QuantizeInt8(ranges, "ort"), fp32),
        "QuantizeFp8": (QuantizeFp8(ranges, 8), fp32),
    }


def weight_of(proto: onnx.ModelProto, conv: str) -> TensorProto:
    """The stored weight of a convolution, through its DequantizeLinear if there is one."""
    writers = {name: node for node in proto.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    name = next(node for node in proto.graph.node if node.name == conv).input[1]
    while name not in tensors:
        name = writers[name].input[0]
    tensor: TensorProto = tensors[name]
    return tensor


def in_float32(proto: onnx.ModelProto) -> None:
    tensor = weight_of(proto, "layer2.0.conv2")
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def in_float16(proto: onnx.ModelProto) -> None:
    tensor = weight_of(proto, "layer1.0.conv2")
    array = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def without_casts(proto: onnx.ModelProto) -> None:
    conv = next(node for node in proto.graph.node if node.name == "layer1.0.conv2")
    conv.input[0] = next(n for n in proto.graph.node if n.name == "layer1.0.conv2.to_fp32").input[0]


def other_node(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


def other_weight(proto: onnx.ModelProto) -> None:
    tensor = weight_of(proto, "layer1.0.conv2")
    array = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def input_in_floating_point(proto: onnx.ModelProto) -> None:
    writers = {name: node for node in proto.graph.node for name in node.output}
    conv = next(node for node in proto.graph.node if node.name == "layer2.0.conv2")
    conv.input[0] = writers[writers[conv.input[0]].input[0]].input[0]


FAULTS: tuple[tuple[str, Fault, str], ...] = (
    ("Lower", in_float32, "layer2.0.conv2: .* is float32 in a fp16 graph"),
    ("InsertFp32Islands", in_float16, "layer1.0.conv2 does not compute in float32"),
    ("InsertFp32Islands", without_casts, "layer1.0.conv2 does not compute in float32"),
    ("InsertFp32Islands", other_node, "islands changed other nodes"),
    ("MergeGroups", other_weight, "layer1.0.conv2 has different weights"),
    ("Equalize", other_weight, "equalizing layer1.0.conv1 to .* changed what they compute"),
    ("CorrectBias", in_float32, "correcting biases changed something else"),
    ("QuantizeInt8", in_float32, "weight of convolution 'layer2.0.conv2' is not stored as INT8"),
    ("QuantizeInt8", input_in_floating_point, "input of convolution 'layer2.0.conv2' is not"),
    ("QuantizeFp8", in_float32, "weight of convolution 'layer2.0.conv2' is not stored as FLOAT8"),
    ("QuantizeFp8", input_in_floating_point, "input of convolution 'layer2.0.conv2' is not"),
)


@pytest.mark.parametrize(("name", "fault", "message"), FAULTS)
def test_a_faulty_pass_is_caught(
    name: str,
    fault: Fault,
    message: str,
    passes: dict[str, tuple[Pass, onnx.ModelProto]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rewrite, proto = passes[name]
    original = type(rewrite).apply

    def faulty(self: Any, source: onnx.ModelProto) -> PassResult:
        result = original(self, source)
        fault(result.proto)
        return result

    run_pass(rewrite, proto)
    monkeypatch.setattr(type(rewrite), "apply", faulty)
    with pytest.raises(GateFailed, match=message):
        run_pass(rewrite, proto)


def test_every_pass_has_a_planted_fault() -> None:
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    classes = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and hasattr(value, "ensures") and value is not Pass
    }
    assert classes == {name for name, _, _ in FAULTS}


def test_passes_leave_their_input_alone(passes: dict[str, tuple[Pass, onnx.ModelProto]]) -> None:
    for rewrite, proto in passes.values():
        before = proto.SerializeToString()
        result = run_pass(rewrite, proto)
        assert proto.SerializeToString() == before
        assert result.changed


@dataclass
class Recorder:
    """A pass that records what is called, and in which order."""

    calls: list[str] = field(default_factory=list)

    def requires(self, proto: onnx.ModelProto) -> None:
        self.calls.append("requires")
        if not proto.graph.name:
            raise UsageError("no name")

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        self.calls.append("apply")
        renamed = onnx.ModelProto()
        renamed.graph.name = f"{proto.graph.name}!"
        return PassResult(renamed, ("all",), (("none", "because"),))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        self.calls.append(f"ensures {before.graph.name} {after.graph.name}")
        return 0.5


def test_a_pass_runs_between_its_checks() -> None:
    recorder, proto = Recorder(), onnx.ModelProto()
    proto.graph.name = "a"
    result = run_pass(recorder, proto)
    assert recorder.calls == ["requires", "apply", "ensures a a!"]
    assert (result.changed, result.skipped) == (("all",), (("none", "because"),))
    assert result.max_error == 0.5


def test_a_model_that_a_pass_is_not_made_for_is_not_rewritten() -> None:
    recorder = Recorder()
    with pytest.raises(UsageError, match="no name"):
        run_pass(recorder, onnx.ModelProto())
    assert recorder.calls == ["requires"]
