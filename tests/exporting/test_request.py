"""One request, from Python, flags or a manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exported import relabeled
from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadArtifact, UnknownName, UsageError
from resnext.precision import Precision
from resnext.weights.spec import Weights
from resnext_export import ExportRequest, export
from resnext_export.cli.export import main
from resnext_export.cli.options import request_from

REQUESTS: list[dict[str, Any]] = [
    {},
    {"weights": "digits", "batch": "4", "bake_preprocessing": True},
    {"weights": "digits", "opset": 19, "runs_on": "onnxruntime-1.17"},
    {"precision": "int8", "calibration": "digits", "calibration_images": 40, "runtime": "openvino"},
    {"precision": "fp16", "io": "native", "merge_groups": 16},
    {"format": "openvino", "merge_groups": "auto", "onnx": Path("here")},
    {"merge_groups": "layer1=16,layer3=32"},
    {"format": "trt", "batch": "1,4:8:16", "tf32": True, "timing_cache": Path("times")},
    {"format": "trt-rtx", "targets": ("sm_89", "sm_120"), "fallbacks": "fail"},
    {"format": "trt", "optimization_level": 0, "fallbacks": ("fp32-islands",)},
    {"format": "pt2", "device": "cuda", "precision": "fp16"},
    {"format": "pt2", "device": "cuda", "precision": "fp16", "kernels": "fused"},
]


@pytest.mark.parametrize("fields", REQUESTS, ids=str)
def test_a_manifest_gives_the_request_back(fields: dict[str, Any]) -> None:
    request = ExportRequest(**fields)
    stored = json.loads(json.dumps(request.record()))
    assert ExportRequest(**stored) == request
    assert stored.keys() <= {"format", "options", *fields}


@pytest.mark.parametrize("fields", REQUESTS, ids=str)
def test_flags_make_the_same_request(fields: dict[str, Any]) -> None:
    words = ["--format", fields.get("format", "onnx")]
    flags = {
        "runtime": "--for",
        "targets": "--target",
        "fallbacks": "--on-refusal",
    }
    for name, value in fields.items():
        flag = flags.get(name, "--" + name.replace("_", "-"))
        if value is True:
            words.append(flag)
        elif name != "format":
            words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    params = main.make_context("resnext-export", words).params
    lists = {"list_models", "list_weights"}
    own = {"output", "force", "check", "json_path", "sbom_path", "debug", *lists}
    assert request_from({n: v for n, v in params.items() if n not in own}) == ExportRequest(
        **fields
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "pt2", "onnx": Path("x")}, "made from the weights.*drop `onnx`"),
        ({"targets": ("sm_89",)}, "`targets` is for engines: `format` trt or trt-rtx"),
        ({"format": "trt", "optimization_level": 6}, "`optimization_level` 6"),
        ({"precision": "fp4"}, "`precision` 'fp4'"),
        ({"calibration_images": 0, "precision": "int8"}, "`calibration_images` 0"),
        ({"format": "openvino", "precision": "int8", "runtime": "ort"}, "two runtimes"),
        ({"batch": "1:2:3:4"}, "is not N, MIN:OPT or MIN:OPT:MAX"),
        ({"batch": "1,2"}, "is not N, MIN:OPT or MIN:OPT:MAX"),
        ({"input_size": "8by8"}, "is not HEIGHTxWIDTH"),
        ({"onnx": Path("x"), "precision": "int8", "model": "resnet50"}, "has its own model"),
    ],
)
def test_what_does_not_go_is_one_line_that_names_fields(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        ExportRequest(**fields)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(("name", "near"), [("precison", "precision"), ("devise", "device")])
def test_an_unknown_field_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{near}'"):
        ExportRequest(**{name: "fp16"})


@pytest.mark.parametrize(
    ("fields", "start", "steps"),
    [
        ({}, None, ["onnx"]),
        ({"precision": "int8"}, None, ["onnx", "onnx int8"]),
        ({"precision": "int8", "onnx": Path("x")}, "fp32", ["onnx int8"]),
        ({"format": "trt"}, None, ["onnx", "trt"]),
        ({"format": "trt", "precision": "fp16"}, None, ["onnx", "onnx fp16", "trt fp16"]),
        (
            {"format": "trt", "precision": "fp16", "onnx": Path("x")},
            "fp32",
            ["onnx fp16", "trt fp16"],
        ),
        ({"format": "trt", "precision": "fp16", "onnx": Path("x")}, "fp16", ["trt fp16"]),
        ({"format": "trt", "onnx": Path("x")}, "fp16", ["trt"]),
        ({"format": "pt2", "precision": "fp16"}, None, ["pt2 fp16"]),
    ],
    ids=str,
)
def test_a_request_lists_what_is_made_in_order(
    fields: dict[str, Any], start: Precision | None, steps: list[str]
) -> None:
    made = ExportRequest(**fields).steps(start)
    assert [f"{step.format} {step.precision or ''}".rstrip() for step in made] == steps


def test_a_start_of_another_precision_is_refused() -> None:
    request = ExportRequest(format="trt", onnx=Path("x"), precision="fp32")
    with pytest.raises(UsageError, match="x is fp16, not fp32; drop `precision`"):
        request.steps("fp16")


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ExportRequest().batch = "4"  # type: ignore[misc]  # what is tested


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, resnext_export; print({'torch', 'onnx', 'pydantic', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- the front door, and back


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))


def test_one_call_quantizes_a_checkpoint(tmp_path: Path) -> None:
    artifact = export("digits", tmp_path / "int8", precision="int8", calibration_images=32)
    assert artifact == read_artifact(tmp_path / "int8")
    assert artifact.manifest.quantization is not None
    assert artifact.manifest.quantization.images == 32
    assert artifact.manifest.check is not None


def test_weights_and_artifacts_are_sources(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    made = {
        "weights": export(digits, tmp_path / "a", precision="fp16"),
        "artifact": export(digits_artifact, tmp_path / "b", precision="fp16"),
        "path": export(digits_artifact.directory, tmp_path / "c", precision="fp16"),
    }
    assert len({artifact.manifest.file_sha256 for artifact in made.values()}) == 1
    assert made["path"].manifest.request == {
        "format": "onnx",
        "onnx": str(digits_artifact.directory),
        "precision": "fp16",
    }


@pytest.mark.parametrize("more", [{}, {"precision": "int8", "calibration_images": 32}], ids=str)
def test_a_rebuilt_onnx_file_has_the_same_bytes(more: dict[str, Any], tmp_path: Path) -> None:
    first = export("digits", tmp_path / "first", batch="1:4", **more)
    first.path.write_bytes(b"damaged")
    (first.directory / "verdict.json").touch()
    result = CliRunner().invoke(main, ["rebuild", str(first.directory)])
    assert result.exit_code == 0, result.output
    assert f"note: replacing {first.directory} drops its verdict.json: " in result.stderr
    again = read_artifact(first.directory)
    assert again.manifest.file_sha256 == first.manifest.file_sha256
    assert again.manifest.request == first.manifest.request


def test_a_manifest_without_a_request_is_not_rebuilt(
    digits_artifact: Artifact, tmp_path: Path
) -> None:
    older = relabeled(digits_artifact, tmp_path / "older", request=None)
    result = CliRunner().invoke(
        main, ["rebuild", str(older.directory), "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == BadArtifact.exit_code
    assert "stores no request" in result.output
    assert not (tmp_path / "out").exists()


def test_an_edited_request_is_refused(tmp_path: Path) -> None:
    first = export("digits", tmp_path / "first", check=False)
    path = first.directory / "manifest.json"
    path.write_text(path.read_text().replace('"format": "onnx"', '"format": "onyx"'))
    result = CliRunner().invoke(main, ["rebuild", str(first.directory)])
    assert result.exit_code == BadArtifact.exit_code
    assert "did you mean 'onnx'" in result.output
