"""``resnext-export --format openvino`` from the outside, and the commands on what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exported import export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.cli import classify
from resnext.cli import parity as parity_command
from resnext.weights.spec import load_weights
from resnext_export.cli.export import main

pytest.importorskip("openvino")
PICTURE = (
    Path(__file__).parents[3] / "resnext" / "weights" / "shipped" / "images" / "digits" / "7_7.png"
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(load_weights("digits"), tmp_path_factory.mktemp("openvino") / "onnx")


@pytest.fixture(scope="module")
def exported(parent: Artifact) -> Artifact:
    out = parent.directory.parent / "ir"
    result = export("--onnx", parent.directory, "--output", out)
    assert result.exit_code == 0, result.output
    assert "parity    ok" in result.output
    return read_artifact(out)


def export(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, ["--format", "openvino", *map(str, arguments)], catch_exceptions=False
    )


def test_the_passport_names_its_parent_and_the_check_that_it_passed(
    exported: Artifact, parent: Artifact
) -> None:
    manifest = exported.manifest
    assert (manifest.kind, manifest.engine) == ("openvino", None)
    assert manifest.parent_sha256 == parent.manifest.file_sha256
    assert manifest.check is not None
    assert manifest.check.backend == "openvino"
    assert "openvino" in manifest.versions


def test_parity_classify_and_inspect_run_it_on_openvino_without_being_told(
    exported: Artifact,
) -> None:
    path = str(exported.directory)
    parity = CliRunner().invoke(parity_command.main, ["--artifact", path, "--images", "7"])
    assert parity.exit_code == 0, parity.output
    assert "on openvino against" in parity.output
    classified = CliRunner().invoke(classify.main, [str(PICTURE), "--artifact", path])
    assert "7_7.png: 7 " in classified.output
    inspected = CliRunner().invoke(
        main, ["inspect", path, "--require-delivered", "1", "--json", "-"]
    )
    assert inspected.exit_code == 0, inspected.output
    facts = json.loads(inspected.stdout)
    assert facts["delivered_share"] == 1
    assert facts["loadable_here"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tf32"], "--tf32 is for engines"),
        (["--target", "sm_89"], "--target is for engines"),
        (["--onnx", "PARENT", "--batch", "4"], "has its own batch"),
        (["--onnx", "PARENT", "--bake-preprocessing"], "has its own bake-preprocessing"),
        (["--onnx", "IR"], "is made from an ONNX artifact"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    arguments: list[str], told: str, parent: Artifact, exported: Artifact, tmp_path: Path
) -> None:
    named = {"PARENT": str(parent.directory), "IR": str(exported.directory)}
    result = export(*(named.get(word, word) for word in arguments), "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_conversion_that_changes_the_function_is_caught_and_leaves_nothing(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from resnext_export.convert import openvino_from_onnx as converter

    proto = onnx.load(str(parent.path))
    weight = next(
        tensor
        for tensor in proto.graph.initializer
        if tensor.name.endswith("layer2.0.conv2.weight")
    )
    weight.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name)
    )
    wrong = converter.openvino_from_onnx(proto.SerializeToString(), {})
    monkeypatch.setattr(converter, "openvino_from_onnx", lambda _source, _metadata: wrong)
    result = export("--onnx", parent.directory, "--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "does not compute what PyTorch computes" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    result = export("--weights", "digits", "--batch", "3", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert read_artifact(tmp_path / "out").manifest.inputs[0].shape == (3, 1, 8, 8)
