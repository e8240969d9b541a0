"""Layers that stay float by request: what the file has there, and that nothing else may."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from exported import derive_onnx, export_openvino
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import REQUESTED
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.errors import BadArtifact, UnknownName, UsageError
from resnext.network.config import VARIANTS
from resnext.network.layers import layers_of
from resnext.readers.files import file_sha256
from resnext.runtimes.registry import open_session
from resnext.verify.check import check
from resnext.verify.delivered import undelivered
from resnext.verify.held.artifact import check_graph, differences
from resnext.weights.spec import Weights
from resnext_export import export
from resnext_export.cli.export import main
from resnext_export.passes.base import run_pass
from resnext_export.passes.insert_fp32_islands import InsertFp32Islands
from resnext_export.passes.lower import Lower
from resnext_export.passes.quantize_fp8 import QuantizeFp8
from resnext_export.passes.quantize_int8 import QuantizeInt8
from resnext_export.pipeline import rebuild
from resnext_export.request import ExportRequest

#: The types of weights that each precision has where nothing is kept, and where something is.
WEIGHTS = {
    "int8": (TensorProto.INT8, TensorProto.FLOAT),
    "fp8": (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16),
    "fp16": (TensorProto.FLOAT16, TensorProto.FLOAT),
    "bf16": (TensorProto.BFLOAT16, TensorProto.FLOAT),
}
FORMS: dict[str, dict[str, Any]] = {
    "int8 for ort": {"precision": "int8"},
    "int8 for trt": {"precision": "int8", "runtime": "trt"},
    "int8, mended": {"precision": "int8", "equalize": True, "correct_bias": True},
    "fp8": {"precision": "fp8", "merge_groups": 32},
    "fp16": {"precision": "fp16"},
    "fp16, native": {"precision": "fp16", "io": "native"},
    "bf16": {"precision": "bf16"},
}
CHOSEN = {
    "a block": ("layer2.0",),
    "both ends": ("conv1", "fc"),
    "single layers": ("layer1.0.conv2", "layer2.0.conv1", "layer3.0.conv3"),
    "a shortcut": ("layer3.0.downsample.0",),
}

#: Both ends of a network, with and without Q/DQ; the default suite has no more of them.
EDGES = (("int8 for ort", "both ends"), ("fp16", "both ends"))


def made(parent: Artifact, weights: Weights, folder: Path, **fields: Any) -> Artifact:
    return derive_onnx(parent, weights, folder / "made", ExportRequest(**fields), check=False)


def weight_kinds(artifact: Artifact) -> dict[str, int]:
    """The stored type of each layer's weight."""
    graph = onnx.load(artifact.path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = node.input[1]
            found[node.name] = kinds[name if name in kinds else makers[name].input[0]]
    return found


def resealed(artifact: Artifact, folder: Path, proto: onnx.ModelProto, **changes: Any) -> Artifact:
    """A copy with another file and manifest, which agree on what both say."""
    shutil.copytree(artifact.directory, folder)
    manifest = json.loads(artifact.manifest.to_json()) | changes
    said = {entry.key: entry.value for entry in proto.metadata_props}
    for name, record in changes.items():
        said.pop(f"resnext.{name}", None)
        if record is not None:
            said[f"resnext.{name}"] = json.dumps(record)
    onnx.helper.set_model_props(proto, said)
    path = folder / artifact.manifest.file
    onnx.save(proto, path)
    manifest |= {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(folder)


@pytest.mark.parametrize(
    ("form", "chosen"),
    [
        pytest.param(form, chosen, marks=[] if often else pytest.mark.exhaustive)
        for form in FORMS
        for chosen in CHOSEN
        for often in [chosen == "single layers" or (form, chosen) in EDGES]
    ],
)
def test_chosen_layers_are_float_and_all_others_are_not(
    form: str, chosen: str, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    artifact = made(digits_artifact, digits, tmp_path, keep_fp32=CHOSEN[chosen], **FORMS[form])
    kept = set(layers_of(digits.config, CHOSEN[chosen]))
    precision = artifact.manifest.precision
    low, wide = WEIGHTS[precision]
    narrow = set() if precision in ("fp16", "bf16") else artifact.manifest.left
    assert weight_kinds(artifact) == {
        name: wide if name in kept or name in narrow else low
        for name in weight_kinds(digits_artifact)
    }
    check_onnx_precision(artifact)
    assert differences(artifact, digits) == []


@pytest.mark.parametrize("form", ["int8 for ort", "int8 for trt", "fp8", "fp16"])
def test_nothing_is_rounded_within_a_block_that_is_kept(
    form: str, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    artifact = made(digits_artifact, digits, tmp_path, keep_fp32=("layer2.0",), **FORMS[form])
    graph = onnx.load(artifact.path).graph
    readers = {name: node for node in graph.node for name in node.input}
    inside = [f"layer2.0.{name}" for name in ("conv1", "conv2", "conv3", "downsample.0")]
    behind = {node.name: readers[node.output[0]] for node in graph.node if node.name in inside}
    assert {node.op_type for node in behind.values()} == {"Relu", "Add"}
    following = [readers[node.output[0]].op_type for node in behind.values()]
    assert sorted(following) == ["Conv", "Conv", "Relu", "Relu"]


@pytest.mark.exhaustive
def test_a_kept_block_loses_less(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    def error(name: str, **fields: Any) -> float:
        request = ExportRequest(precision="int8", **fields)
        artifact = derive_onnx(digits_artifact, digits, tmp_path / name, request, check=False)
        found = check(artifact, weights=digits, images_from="digits", images=48).mean_error
        assert found is not None
        return found

    assert error("most", keep_fp32=("conv1", "layer1", "layer2")) < 0.5 * error("none")


def test_an_export_records_them_and_is_rebuilt(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    kept = ("layer2.0", "layer1.0.conv2")
    request = ExportRequest(precision="int8", format="openvino", keep_fp32=kept)
    artifact = derive_onnx(digits_artifact, digits, tmp_path / "first", request, check=False)
    record = artifact.manifest.quantization
    assert record is not None
    layers = layers_of(digits.config, kept)
    assert [name for name, reason in record.left if reason == REQUESTED] == list(layers)
    assert artifact.manifest.request is not None
    assert artifact.manifest.request["keep_fp32"] == list(kept)
    with open_session(artifact, "openvino") as session:
        missed = undelivered(session.delivered(), digits.config, "int8")
    float_layers = {name for name, dtype in missed if dtype not in ("int8", "uint8")}
    assert float_layers == artifact.manifest.left
    again = rebuild(artifact.directory, tmp_path / "again", check=False)
    assert again.manifest.file_sha256 == artifact.manifest.file_sha256


@pytest.mark.parametrize(
    ("kept", "required", "code"),
    [(("layer2.0",), "0.99", 0), (("layer2.0",), "1", 1), (None, "0.99", 0)],
)
def test_a_layer_that_is_kept_by_request_is_delivered_and_no_other(
    kept: Any, required: str, code: int, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    """The classifier, which nobody asked for, is still not int8."""
    artifact = made(digits_artifact, digits, tmp_path, precision="int8", keep_fp32=kept)
    words = ["inspect", str(artifact.directory), "--require-delivered", required]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    assert ("39.58% are kept by request" in done.stderr) == bool(code)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (None, "is a Cast, and an export has"),
        ({"layers": ["layer1.0.conv2"]}, "is a Cast, and an export has"),
        ({"layers": ["layer2.0.conv2", "layer9.0"]}, "layer9.0 in float, which is no layer"),
    ],
)
def test_an_island_that_is_not_declared_is_refused(
    kept: Any, says: str, fp16_artifact: Artifact, tmp_path: Path
) -> None:
    proto = onnx.load(fp16_artifact.path)
    island = run_pass(InsertFp32Islands(["layer2.0.conv2"]), proto).proto
    with pytest.raises(BadArtifact, match=says):
        check_graph(resealed(fp16_artifact, tmp_path / "planted", island, kept=kept))


@pytest.mark.parametrize(
    ("actual", "declared"),
    [((), ("layer2.0",)), (("layer2.0",), ()), (("layer2.0",), ("layer1.0",))],
)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_what_the_manifest_says_of_kept_layers_must_be_so(
    precision: Any,
    actual: tuple[str, ...],
    declared: tuple[str, ...],
    digits: Weights,
    digits_artifact: Artifact,
    tmp_path: Path,
) -> None:
    artifact = made(
        digits_artifact, digits, tmp_path, precision=precision, keep_fp32=actual or None
    )
    said = layers_of(digits.config, declared)
    changes: dict[str, Any] = {"kept": {"layers": said} if said else None}
    if (record := artifact.manifest.quantization) is not None:
        left = [(name, REQUESTED) for name in said] + [record.left[-1]]
        stored = json.loads(record.model_dump_json()) | {"left": left}
        changes = {"quantization": stored}
    other = resealed(artifact, tmp_path / "other", onnx.load(artifact.path), **changes)
    with pytest.raises(BadArtifact, match="no export of its manifest's network"):
        check_graph(other)


def test_a_kept_layer_must_still_have_the_weights_of_the_network(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    artifact = made(
        digits_artifact, digits, tmp_path, precision="fp16", keep_fp32=("layer2.0.conv2",)
    )
    proto = onnx.load(artifact.path)
    (weight,) = (each for each in proto.graph.initializer if each.name == "layer2.0.conv2.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0, 1, 1] *= 1.0001  # within what float16 would round
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    other = resealed(artifact, tmp_path / "other", proto)
    (line,) = differences(other, digits)
    assert line.startswith("layer2.0.conv2: 1 of ")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "`keep_fp32` is for fp16, bf16, int8 and fp8"),
        ({"precision": "fp32"}, "`keep_fp32` is for fp16, bf16, int8 and fp8"),
        ({"precision": "int8", "keep_fp32": ()}, "`keep_fp32` names no layer"),
        ({"precision": "bf16", "format": "openvino"}, "OpenVINO computes all of an bf16 network"),
        ({"precision": "fp16", "format": "pt2"}, "made from the weights"),
    ],
)
def test_a_request_that_cannot_keep_layers_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ExportRequest(**{"keep_fp32": ("layer1.0",), **fields})


def test_an_unknown_layer_is_refused_before_any_work(digits: Weights, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'layer2.0.conv4'; did you mean 'layer2.0.conv"):
        export(digits, tmp_path / "out", precision="int8", keep_fp32=("layer2.0.conv4",))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_network_that_is_kept_as_a_whole_is_refused(
    precision: Any, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    names = ("conv1", "layer1", "layer2", "layer3", "fc")
    with pytest.raises(UsageError, match="names every layer"):
        made(digits_artifact, digits, tmp_path, precision=precision, keep_fp32=names)


def test_what_is_in_low_precision_already_cannot_be_kept(
    digits: Weights, fp16_artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is fp16 already, and `keep_fp32`"):
        made(
            *(fp16_artifact, digits, tmp_path),
            precision="fp16",
            merge_groups=16,
            keep_fp32=("layer1",),
        )


def test_an_fp16_artifact_with_islands_is_not_for_openvino(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    artifact = made(digits_artifact, digits, tmp_path, precision="fp16", keep_fp32=("layer1",))
    with pytest.raises(UsageError, match=r"keeps layer1.0.conv1 in float32, and OpenVINO"):
        export_openvino(artifact, digits, tmp_path / "ir")


def test_names_of_layers_blocks_and_stages() -> None:
    config = VARIANTS["resnext50_32x4d"]
    assert layers_of(config, ["fc", "layer1.0.conv2", "conv1"]) == ("conv1", "layer1.0.conv2", "fc")
    assert len(layers_of(config, ["layer4", "layer4.0"])) == 10
    assert layers_of(config, ["layer3.5"]) == tuple(
        f"layer3.5.conv{number}" for number in (1, 2, 3)
    )
    assert layers_of(config, []) == ()
    with pytest.raises(UnknownName, match=r"'layer3.6'; did you mean 'layer3.5'"):
        layers_of(config, ["layer3.6"])


@pytest.mark.parametrize(
    "rewrite",
    [Lower("fp16", keep=("nowhere",)), QuantizeInt8(None, "ort", ("nowhere",))],  # type: ignore[arg-type]
)
def test_a_pass_refuses_an_unknown_layer(
    rewrite: Lower | QuantizeInt8 | QuantizeFp8, digits_artifact: Artifact
) -> None:
    with pytest.raises(UnknownName, match="unknown layer 'nowhere'"):
        rewrite.requires(onnx.load(digits_artifact.path))
