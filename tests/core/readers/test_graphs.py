"""ONNX files: what a runtime would fetch from elsewhere, or allocate on a graph's word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact
from resnext.readers.graphs import check_model, parse_onnx
from resnext.runtimes.registry import open_session
from resnext_export.calibration.collect import read_graph


def model() -> onnx.ModelProto:
    """One product, with a weight ``w`` and a constant that is an attribute."""
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    constant = numpy_helper.from_array(np.zeros(2, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], "constant", value=constant),
        helper.make_node("Gemm", ["x", "w", "c"], ["y"], "product"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def external(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def external_in_attribute(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.node[0].attribute[0].t
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def nested(proto: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "inner", [], [])
    for depth in range(12):
        outer = helper.make_node("If", ["c"], ["z"], f"if{depth}", then_branch=graph)
        graph = helper.make_graph([outer], f"g{depth}", [], [])
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], "if", then_branch=graph))


def external_within(proto: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    inner.initializer.append(proto.graph.initializer[0])
    entry = inner.initializer[0].external_data.add()
    entry.key, entry.value = "location", "x"
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], "if", then_branch=inner))


def dims(*sizes: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(sizes)

    return change


def element_type(number: int) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: setattr(proto.graph.initializer[0], "data_type", number)


def typed(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 7)


def segmented(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].segment.begin = 1


def function(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    proto.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 20)])
    )


def domain(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("com.evil", 1))


def domain_of_a_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].domain = "com.evil"


def sparse(proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def training(proto: onnx.ModelProto) -> None:
    proto.training_info.add()


def maker(proto: onnx.ModelProto) -> None:
    """Four gigabytes from one number."""
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1 << 30]), "size"))
    proto.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["huge"]))


def padding(proto: onnx.ModelProto) -> None:
    node = helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 20_000, 1])
    proto.graph.node.append(node)


ALWAYS = {
    "external": (external, "another file"),
    "external attribute": (external_in_attribute, "another file"),
    "external in a branch": (external_within, "another file"),
    "deep": (nested, "nested"),
    "more than it has": (dims(4, 3), "the values that its shape says"),
    "overflow": (dims(1 << 33, 1 << 33), "the values that its shape says"),
    "overflow to zero": (dims(1 << 32, 1 << 32, 4), "the values that its shape says"),
    "negative": (dims(-4, -2), "negative"),
    "another type": (element_type(TensorProto.DOUBLE), "the values that its shape says"),
    "no type": (element_type(0), "unknown element type"),
    "no known type": (element_type(99), "unknown element type"),
    "typed and too short": (typed, "the values that its shape says"),
    "segments": (segmented, "segments"),
}
OURS = {
    "function": (function, "local function"),
    "domain": (domain, "another domain"),
    "domain of a node": (domain_of_a_node, "another domain"),
    "sparse": (sparse, "sparse"),
    "training": (training, "training"),
    "a tensor of any size": (maker, "is ConstantOfShape, which no export has"),
    "padding": (padding, "pads by 20000"),
}


@pytest.mark.parametrize("name", ALWAYS)
@pytest.mark.parametrize("foreign", [False, True])
def test_a_graph_that_is_not_self_contained_or_lies_is_refused(name: str, foreign: bool) -> None:
    proto, (change, why) = model(), ALWAYS[name]
    change(proto)
    with pytest.raises(ValueError, match=why) as caught:
        parse_onnx(proto.SerializeToString(), foreign=foreign)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_what_no_export_of_this_toolkit_has_is_refused_unless_it_is_foreign(name: str) -> None:
    proto, (change, why) = model(), OURS[name]
    change(proto)
    with pytest.raises(ValueError, match=why):
        parse_onnx(proto.SerializeToString())
    parse_onnx(proto.SerializeToString(), foreign=True)


@pytest.mark.parametrize("kind", sorted({*TensorProto.DataType.keys()} - {"UNDEFINED"}))
def test_tensors_of_every_type_are_accepted_as_the_library_writes_them(kind: str) -> None:
    data_type = TensorProto.DataType.Value(kind)
    if kind == "STRING":
        values: list[Any] = [b"a", b"b", b"c"]
    else:
        values = [1, 0, 1]
    proto = model()
    try:
        tensor = helper.make_tensor("w", data_type, [3], values)
    except (KeyError, TypeError, ValueError):
        pytest.skip("the library cannot write it")
    proto.graph.initializer[0].CopyFrom(tensor)
    check_model(proto)
    if kind not in ("STRING", "COMPLEX64", "COMPLEX128"):
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
        proto.graph.initializer[0].CopyFrom(raw)
        check_model(proto)


def resealed(artifact: Artifact, folder: Path, data: bytes) -> Path:
    """A copy of ``artifact`` with other bytes, and a manifest that fits them."""
    folder.mkdir()
    raw = json.loads(artifact.manifest.to_json())
    raw.update(file_sha256=hashlib.sha256(data).hexdigest(), file_size_bytes=len(data))
    (folder / "manifest.json").write_text(json.dumps(raw))
    (folder / artifact.manifest.file).write_bytes(data)
    return folder


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino", "onnx-reference"])
@pytest.mark.parametrize("change", [external, function, domain_of_a_node])
def test_no_runtime_sees_a_graph_that_is_refused(
    runtime: str, change: Callable[[onnx.ModelProto], None], digits_onnx: Artifact, tmp_path: Path
) -> None:
    proto = onnx.load(digits_onnx.path)
    change(proto)
    folder = resealed(digits_onnx, tmp_path / "a", proto.SerializeToString())
    with pytest.raises(BadArtifact, match=r"another file|local function|another domain"):
        open_session(read_artifact(folder), runtime)


def test_calibration_reads_as_strictly(tmp_path: Path) -> None:
    proto = model()
    external(proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="another file"):
        read_graph(tmp_path / "m.onnx")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_refused_in_one_line_or_parsed(data: st.DataObject) -> None:
    raw = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        parse_onnx(bytes(raw), foreign=data.draw(st.booleans()))
    except ValueError as exc:
        assert "\n" not in str(exc)  # noqa: PT017  # either is fine
