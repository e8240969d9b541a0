from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exported import derive_onnx, export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import BadArtifact, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import Precision
from resnext.runtimes.onnx_reference.evaluator import emulated_logits, node_by_node, widened
from resnext.runtimes.registry import open_session
from resnext.verify.delivered import delivered_share
from resnext.verify.eager import reference_logits
from resnext.weights.spec import Weights, load_weights
from resnext_export.request import ExportRequest

BF16 = ExportRequest(precision="bf16")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def plain(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("emulation") / "fp32", check=False)


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 20))


def rounded(values: Any) -> Any:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def bf16_model(*nodes: onnx.NodeProto, kind: int = TensorProto.BFLOAT16) -> onnx.ModelProto:
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, (2, 2), [1.0, 0.3, -0.7, 1.1])
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, ("N", 2))],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ("N", 2))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def test_float32_is_what_a_runtime_gives(plain: Artifact, images: Any) -> None:
    with open_session(plain, "ort-cpu") as session:
        usual = session.run({"input": images})["logits"]
    assert np.abs(emulated_logits(plain, images) - usual).max() < 1e-4


def test_every_result_is_rounded_to_bfloat16_once(images: Any) -> None:
    assert images.size
    model = bf16_model(
        helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Mul", ["m", "m"], ["y"])
    )
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    weight = rounded(np.array([[1.0, 0.3], [-0.7, 1.1]], np.float32))
    product = rounded(rounded(x) @ weight)
    np.testing.assert_array_equal(node_by_node(model, x), rounded(product * product))


def test_a_cast_into_bfloat16_rounds() -> None:
    model = bf16_model(
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        helper.make_node("Identity", ["h"], ["y"]),
        kind=TensorProto.FLOAT,
    )
    x = np.array([[1.001, 3.14159], [-2.71828, 65536.5]], np.float32)
    np.testing.assert_array_equal(node_by_node(model, x), rounded(x))


def test_the_model_is_left_as_it_is() -> None:
    model = bf16_model(helper.make_node("Identity", ["x"], ["y"]))
    before = model.SerializeToString()
    widened(model)
    assert model.SerializeToString() == before


def test_bfloat16_loses_about_what_pytorch_loses(
    plain: Artifact, weights: Weights, images: Any, tmp_path: Path
) -> None:
    import torch

    half = derive_onnx(plain, weights, tmp_path / "bf16", BF16, check=False)
    exact = reference_logits(weights, images)
    ours = np.abs(emulated_logits(half, images) - exact).max()
    theirs = np.abs(reference_logits(weights, images, torch.bfloat16) - exact).max()
    assert theirs / 3 < ours < theirs * 3


def test_a_wrong_weight_shows(
    plain: Artifact, weights: Weights, images: Any, tmp_path: Path
) -> None:
    half = derive_onnx(plain, weights, tmp_path / "bf16", BF16, check=False)
    proto = onnx.load(half.path)
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[0] = -values[0]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert np.abs(node_by_node(proto, images) - emulated_logits(half, images)).max() > 0.5


def test_a_fixed_batch_is_filled_and_cut(
    weights: Weights, images: Any, tmp_path: Path, plain: Artifact
) -> None:
    fixed = export_onnx(weights, tmp_path / "fixed", batch=BatchRange.parse("3"), check=False)
    logits = emulated_logits(fixed, images[:7])
    assert logits.shape == (7, 10)
    assert np.abs(logits - emulated_logits(plain, images[:7])).max() < 1e-4


def test_what_is_no_onnx_file_is_refused(plain: Artifact, images: Any) -> None:
    other = replace(plain, manifest=plain.manifest.model_copy(update={"kind": "openvino"}))
    with pytest.raises(UsageError, match="only ONNX"):
        emulated_logits(other, images)
    proto = bf16_model(helper.make_node("NoSuchOperator", ["x"], ["y"]))
    with pytest.raises(BadArtifact, match="cannot load"):
        node_by_node(proto, images)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_as_a_session_it_runs_binds_and_accounts_like_every_runtime(
    precision: Precision, plain: Artifact, weights: Weights, images: Any, tmp_path: Path
) -> None:
    artifact = plain
    if precision != "fp32":
        artifact = derive_onnx(
            plain, weights, tmp_path / "low", ExportRequest(precision=precision), check=False
        )
    want = emulated_logits(artifact, images[:4])
    with open_session(artifact, "onnx-reference") as session:
        np.testing.assert_array_equal(session(images[:4]), want)
        bound = session.bind({"input": images[:4]})
        session(images[4:8])
        bound.enqueue()
        np.testing.assert_array_equal(bound.fetch()["logits"], want)
        found = session.delivered()
    # bfloat16 is computed in float32 and rounded after each node, which is said as it is.
    assert delivered_share(found, weights.config, "float32") == 1
    with pytest.raises(SessionFailed, match="closed"):
        bound.fetch()


def test_the_reference_evaluator_holds_the_manifest_against_the_file(plain: Artifact) -> None:
    named = replace(plain, manifest=plain.manifest.model_copy(update={"class_names": ("a",) * 10}))
    with pytest.raises(BadArtifact, match=r"does not agree with the file on .*class_names"):
        open_session(named, "onnx-reference")
