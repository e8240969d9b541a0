"""Only the file's bytes are under a digest, so the manifest must agree with what the file says of
itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exported import export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.cli.classify import main as classify
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact
from resnext.runtimes.registry import open_session
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights, load_weights


def altered(artifact: Artifact, folder: Path, change: Callable[[dict[str, Any]], None]) -> Artifact:
    shutil.copytree(artifact.directory, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["preprocessing"].update(mean=[0.9]), "preprocessing"),
        (lambda m: m["class_names"].reverse(), "class_names"),
        (lambda m: m.update(preprocessing_baked=True), "preprocessing_baked"),
        (lambda m: m["weights"].update(sha256="0" * 64), "weights_sha256"),
        (lambda m: m["inputs"][0].update(name="image"), "inputs"),
        (lambda m: m["inputs"].append(m["inputs"][0]), "inputs"),
        (lambda m: m["outputs"][0].update(name="nope"), "outputs"),
    ],
)
def test_an_altered_manifest_is_refused(
    digits_artifact: Artifact, tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    artifact = altered(digits_artifact, tmp_path / "a", change)
    with pytest.raises(BadArtifact, match=rf"does not agree with the file on .*\b{named}"):
        open_session(artifact, "ort-cpu")
    picture = str(next(SHIPPED["digits"].images.iterdir()))
    for command, args in ((classify, [picture]), (parity, [])):
        result = CliRunner().invoke(command, [*args, "--artifact", str(tmp_path / "a")])
        assert result.exit_code == 4, result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("batch", "proven"), [("1:2:4", (1, 4)), ("2:4:6", (2, 6)), ("3:4", (3, 7)), ("9:9:20", (9,))]
)
def test_both_ends_of_a_range_are_proven(
    batch: str, proven: tuple[int, ...], digits: Weights, tmp_path: Path
) -> None:
    artifact = export_onnx(digits, tmp_path / "a", batch=BatchRange.parse(batch))
    assert artifact.manifest.check is not None
    assert artifact.manifest.check.batches == proven


def test_classify_fills_the_smallest_batch_of_a_range(digits: Weights, tmp_path: Path) -> None:
    export_onnx(digits, tmp_path / "a", batch=BatchRange.parse("2:4:6"))
    picture = str(SHIPPED["digits"].images / "3_3.png")
    result = CliRunner().invoke(
        classify, [picture, "--artifact", str(tmp_path / "a"), "--top", "1"]
    )
    assert result.exit_code == 0, result.output
    assert ": 3 9" in result.stdout


def test_classes_of_untrained_weights_come_with_a_warning(tmp_path: Path) -> None:
    picture = str(SHIPPED["digits"].images / "3_3.png")
    result = CliRunner().invoke(
        classify, [picture, "--model", "resnext11_8x4d_digits", "--weights", "seeded"]
    )
    assert "not trained" in result.stderr
    assert (
        "not trained" not in CliRunner().invoke(classify, [picture, "--weights", "digits"]).stderr
    )
    export_onnx(load_weights("seeded", "resnext11_8x4d_digits"), tmp_path / "a")
    assert (
        "not trained"
        in CliRunner().invoke(classify, [picture, "--artifact", str(tmp_path / "a")]).stderr
    )


def test_fp16_is_fp16_inside_float32_outside_and_proven(digits: Weights, tmp_path: Path) -> None:
    import onnx

    artifact = export_onnx(digits, tmp_path / "a", precision="fp16")
    graph = onnx.load(artifact.path).graph
    weighted = {
        name for node in graph.node if node.op_type in ("Conv", "Gemm") for name in node.input[1:]
    }
    types = {t.data_type for t in graph.initializer if t.name in weighted}
    assert types == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert artifact.manifest.precision == "fp16"
    assert artifact.manifest.check is not None
    assert 1e-5 < artifact.manifest.check.max_error < artifact.manifest.check.tolerance
    assert artifact.manifest.file_size_bytes < 0.6 * 560_000
