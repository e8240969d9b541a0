"""Bills of materials: valid by CycloneDX's own schema, and true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact
from resnext.verify.margins import clopper_pearson
from resnext.verify.verdict import judge, read_verdict, sealed, write_verdict
from resnext_export.cli.export import main
from resnext_export.sbom import sbom

EARLIER = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"


def valid(text: str) -> Any:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("judged") / "artifact"
    artifact = read_artifact(Path(shutil.copytree(EARLIER / "onnx-fp32", folder)))
    weights = str(EARLIER / "tiny.safetensors")
    write_verdict(artifact, judge(artifact, weights=weights, runtime="ort-cpu"))
    return artifact


@pytest.mark.parametrize("name", sorted(path.name for path in EARLIER.glob("*-*")))
def test_every_format_and_precision_has_a_valid_one(name: str) -> None:
    artifact = read_artifact(EARLIER / name)
    manifest = artifact.manifest
    model = valid(sbom(artifact))["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest.file_sha256}]
    ancestors = {each["hashes"][0]["content"] for each in model["pedigree"]["ancestors"]}
    assert ancestors == {manifest.weights.sha256, manifest.parent_sha256} - {None}
    datasets = model["modelCard"]["modelParameters"]["datasets"]
    record = manifest.quantization
    assert [each["name"] for each in datasets] == ([] if record is None else [record.source])


def test_it_names_libraries_and_metrics_with_intervals(judged: Artifact) -> None:
    bill = valid(sbom(judged))
    verdict = read_verdict(judged.directory)
    versions = {each["name"]: each["version"] for each in bill["components"]}
    assert versions == judged.manifest.versions
    card = bill["metadata"]["component"]["modelCard"]
    parameters = card["modelParameters"]
    assert json.loads(parameters["modelArchitecture"])["cardinality"] == 4
    assert parameters["inputs"] == [{"format": "input: float32, N x 1 x 8 x 8"}]
    metrics = {
        each["type"].partition(",")[0]: each
        for each in card["quantitativeAnalysis"]["performanceMetrics"]
    }
    top1 = metrics["top-1 agreement with eager PyTorch"]
    assert float(top1["value"]) == verdict.parity.top1 == 1
    low, high = clopper_pearson(28, 28)
    assert float(top1["confidenceInterval"]["lowerBound"]) == pytest.approx(low, rel=1e-5)
    assert float(top1["confidenceInterval"]["upperBound"]) == high
    assert float(metrics["share of convolution and product FLOPs in fp32"]["value"]) == 1
    assert verdict.timing is not None
    milliseconds = float(metrics["median latency"]["value"])
    assert milliseconds == pytest.approx(verdict.timing.median_ns / 1e6, rel=1e-5)


def test_the_same_artifact_has_the_same_one(judged: Artifact) -> None:
    assert sbom(judged) == sbom(judged)


def test_a_verdict_about_other_bytes_is_not_quoted(judged: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(judged.directory, tmp_path / "copy"))
    other = read_verdict(folder).model_copy(update={"artifact_sha256": "0" * 64})
    artifact = read_artifact(folder)
    write_verdict(artifact, sealed(other))
    with pytest.raises(BadArtifact, match="about other bytes"):
        sbom(artifact)


def test_the_schema_sees_a_planted_fault(judged: Artifact) -> None:
    bill = json.loads(sbom(judged))
    bill["metadata"]["component"]["modelCard"]["accuracy"] = 1
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    assert error is not None


def test_export_and_inspect_write_it(judged: Artifact, tmp_path: Path) -> None:
    target = tmp_path / "a.cdx.json"
    at = str(judged.directory)
    done = CliRunner().invoke(main, ["inspect", at, "--no-layers", "--sbom", str(target)])
    assert done.exit_code == 0, done.stderr
    assert target.read_text() == sbom(judged)
    target.unlink()
    how = ["--format", "onnx", "--weights", "digits", "--no-check"]
    done = CliRunner().invoke(
        main, [*how, "--output", str(tmp_path / "out"), "--sbom", str(target)]
    )
    assert done.exit_code == 0, done.stderr
    assert target.read_text() == sbom(read_artifact(tmp_path / "out"))
