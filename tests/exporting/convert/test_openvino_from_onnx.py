"""The packed IR keeps names, weights and their types, and is a file that OpenVINO's own tools
read.
"""

from __future__ import annotations

import mmap
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import BadArtifact, GateFailed
from resnext.runtimes.openvino.ir import read_ir, unpack_ovir, weight_dtypes
from resnext.runtimes.openvino.library import ov
from resnext.weights.spec import Weights
from resnext_export.convert.openvino_from_onnx import FILE_NAME, openvino_from_onnx


@pytest.fixture(scope="module")
def ir(digits_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ir") / FILE_NAME
    path.write_bytes(openvino_from_onnx(digits_artifact.path, {}))
    return path


def read(path: Path) -> tuple[Any, Any]:
    memory = mmap.mmap(-1, path.stat().st_size)
    memory.write(path.read_bytes())
    return read_ir(ov.Core(), *unpack_ovir(memory, str(path)))


def quantized_convolution() -> bytes:
    """One int8 convolution between Q/DQ nodes, as TensorRT and OpenVINO want them."""

    def constant(name: str, value: Any) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    generator = np.random.default_rng(0)
    constants = [
        constant("scale", np.float32(0.05)),
        constant("zero", np.uint8(128)),
        constant("w", generator.integers(-127, 128, (8, 4, 3, 3), np.int8)),
        constant("w_scale", np.full(8, 0.01, np.float32)),
        constant("w_zero", np.zeros(8, np.int8)),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "x_quantized"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "x_dequantized"),
        helper.make_node(
            "DequantizeLinear", ["w", "w_scale", "w_zero"], ["wdq"], "w_dequantized", axis=0
        ),
        helper.make_node("Conv", ["dq", "wdq"], ["y"], "conv1"),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 8, 6, 6))],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def test_names_and_shapes_are_kept(ir: Path, digits_artifact: Artifact) -> None:
    model, _memory = read(ir)
    assert [port.get_names() for port in model.inputs] == [{"input"}]
    assert [port.get_names() for port in model.outputs] == [{"logits"}]
    assert model.inputs[0].get_partial_shape() == ov.PartialShape([-1, 1, 8, 8])
    nodes = {node.get_friendly_name() for node in model.get_ops()}
    convolutions = [
        node.name for node in onnx.load(digits_artifact.path).graph.node if node.op_type == "Conv"
    ]
    assert len(convolutions) == 13
    assert set(convolutions) <= nodes


def test_every_weight_is_kept_bit_by_bit(ir: Path, digits_artifact: Artifact) -> None:
    model, _memory = read(ir)
    held = {
        node.get_friendly_name(): node.get_data()
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    }
    weights = [
        tensor
        for tensor in onnx.load(digits_artifact.path).graph.initializer
        if tensor.name.endswith("weight")
    ]
    assert len(weights) >= 14
    for tensor in weights:
        value = numpy_helper.to_array(tensor)
        assert value.dtype == np.float32
        assert held[tensor.name].dtype == np.float32
        assert np.array_equal(held[tensor.name].reshape(value.shape), value)
    assert set(weight_dtypes(model).values()) == {"float32"}


def test_float16_by_default_is_caught_as_it_is_written(
    digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ov.save_model

    def save_by_default(model: Any, path: Path, compress_to_fp16: bool) -> None:
        assert not compress_to_fp16
        save(model, path)

    monkeypatch.setattr(ov, "save_model", save_by_default)
    with pytest.raises(
        GateFailed, match=r"stored the weights of conv1.* as float16, they are float32 \(14 of 14"
    ):
        openvino_from_onnx(digits_artifact.path, {})


def test_a_float16_network_stays_one(digits: Weights, tmp_path: Path) -> None:
    half = export_onnx(digits, tmp_path / "onnx", precision="fp16")
    path = tmp_path / FILE_NAME
    path.write_bytes(openvino_from_onnx(half.path, {}))
    model, _memory = read(path)
    assert set(weight_dtypes(model).values()) == {"float16"}
    assert model.inputs[0].get_element_type() == ov.Type.f32


def test_the_same_model_gives_the_same_bytes_from_path_and_from_memory(
    ir: Path, digits_artifact: Artifact
) -> None:
    assert openvino_from_onnx(digits_artifact.path, {}) == ir.read_bytes()
    assert openvino_from_onnx(digits_artifact.path.read_bytes(), {}) == ir.read_bytes()


def test_metadata_of_the_onnx_file_is_kept_and_that_of_the_caller_wins(
    digits_artifact: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    awkward = '{"a": "<&\'>\\n\u00e9", "b": [""]}'
    path.write_bytes(
        openvino_from_onnx(
            digits_artifact.path, {"resnext.weights": "mine", "resnext.more": awkward}
        )
    )
    model, _memory = read(path)

    def noted(key: str) -> str:
        return str(model.get_rt_info(["framework", key]).value)

    assert noted("resnext.weights") == "mine"
    assert noted("resnext.more") == awkward
    assert noted("resnext.weights_sha256") == digits_artifact.manifest.weights.sha256


def test_any_tool_unpacks_it_into_what_openvino_reads(ir: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(ir) as packed:
        assert packed.testzip() is None
        assert sorted(packed.namelist()) == ["model.bin", "model.xml"]
        packed.extractall(tmp_path)
    model, _memory = read(ir)
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    ours, theirs = (
        ov.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[0]
        for source in (model, str(tmp_path / "model.xml"))
    )
    assert np.array_equal(ours, theirs)


def test_the_weights_begin_on_a_cache_line(ir: Path) -> None:
    _model, memory = read(ir)
    assert memory.data.ctypes.data % 64 == 0
    assert ir.read_bytes()[64 : 64 + memory.get_byte_size()] == memory.data.tobytes()


def test_integer_weights_stay_integers_and_are_computed_in(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(openvino_from_onnx(quantized_convolution(), {}))
    model, _memory = read(path)
    assert list(weight_dtypes(model).values()) == ["int8"]
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    types = {
        str(fact["runtimePrecision"].value)
        for fact in facts
        if fact["layerType"].value == "Convolution"
    }
    assert types <= {"u8", "i8"}
    assert types


def test_nothing_is_left_behind(
    digits_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    openvino_from_onnx(digits_artifact.path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_openvino_cannot_read_is_told_in_one_line(
    tmp_path: Path, digits_artifact: Artifact
) -> None:
    broken = tmp_path / "half.onnx"
    data = digits_artifact.path.read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    for source in (broken, broken.read_bytes(), tmp_path / "nothing.onnx"):
        with pytest.raises(BadArtifact, match="OpenVINO cannot convert") as caught:
            openvino_from_onnx(source, {})
        assert "\n" not in str(caught.value)
