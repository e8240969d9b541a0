"""``resnext-export --format pt2`` around a stand-in for the compiler: what is refused, recorded,
proven and left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from exported import export_pt2
from fakes.package import FakeLoader, fake_package, fake_pt2_from_torch, record_here
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import KernelsFrom
from resnext.artifact.trust import remember_built
from resnext.cli import classify, parity
from resnext.errors import MissingRequirement, SessionFailed
from resnext.runtimes import compatibility
from resnext.runtimes.pt2 import door, toolchain
from resnext.runtimes.pt2.record import this_host
from resnext.runtimes.pt2.toolchain import obstacle
from resnext.weights.spec import Weights, load_model
from resnext_export.cli.export import main
from resnext_export.command import export_command
from resnext_export.convert import pt2_from_torch as converter
from resnext_export.options import options_of
from resnext_export.registry import PackageOptions
from resnext_export.request import ExportRequest

PICTURE = (
    Path(__file__).parents[3] / "resnext" / "weights" / "shipped" / "images" / "digits" / "7_7.png"
)


@pytest.fixture
def loaders(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> list[FakeLoader]:
    """No compiler: every loader that was made, each of a network that is what it should be."""
    made: list[FakeLoader] = []
    model = load_model(digits)

    def make(*_: object) -> FakeLoader:
        made.append(FakeLoader(model))
        return made[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    monkeypatch.setattr(converter, "pt2_from_torch", fake_pt2_from_torch)
    monkeypatch.setattr(converter, "refuse_if_not_compilable", lambda *_: None)
    return made


def export(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, ["--format", "pt2", "--weights", "digits", *map(str, arguments)]
    )


def inspect(artifact: Artifact, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["inspect", str(artifact.directory), *arguments])


def error(result: Result) -> str:
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# ---- what is written


@pytest.mark.usefixtures("loaders")
def test_the_passport_says_what_the_package_hangs_on_and_the_check_that_it_passed(
    tmp_path: Path,
) -> None:
    result = export("--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    host = this_host()
    assert f"PyTorch {host.torch}, {host.cpu_capability})" in result.stdout.splitlines()[0]
    assert "opset" not in result.stdout
    assert "parity    ok: max error" in result.stdout
    manifest = read_artifact(tmp_path / "out").manifest
    assert (manifest.kind, manifest.opset, manifest.parent_sha256, manifest.engine) == (
        "pt2",
        None,
        None,
        None,
    )
    assert manifest.package is not None
    assert (manifest.package.torch, manifest.package.device) == (host.torch, "cpu")
    assert manifest.check is not None
    assert (manifest.check.backend, manifest.check.batches) == ("pt2", (1, 7))
    assert set(manifest.versions) == {"resnext-toolkit", "torch", "numpy"}
    assert str(manifest.batch) == "1..any"


@pytest.mark.usefixtures("loaders")
def test_options_reach_the_converter(tmp_path: Path) -> None:
    result = export(
        "--output", tmp_path / "out", "--precision", "fp16", "--batch", "2:4:6", "--no-check"
    )
    assert result.exit_code == 0, result.output
    assert "NOT CHECKED (--no-check)" in result.stdout
    assert "resnext-parity --artifact DIR --backend pt2" in result.stdout
    manifest = read_artifact(tmp_path / "out").manifest
    assert (manifest.precision, str(manifest.batch), manifest.check) == ("fp16", "2..6", None)


@pytest.mark.usefixtures("loaders")
def test_fused_kernels_reach_the_converter_and_whatever_is_said_of_the_package(
    tmp_path: Path,
) -> None:
    words = ("--device", "cuda", "--precision", "fp16", "--kernels", "fused", "--no-check")
    result = export("--output", tmp_path / "out", "--sbom", tmp_path / "sbom.json", *words)
    assert result.exit_code == 0, result.output
    artifact = read_artifact(tmp_path / "out")
    manifest = artifact.manifest
    assert manifest.package is not None
    assert manifest.package.kernels_from == "fused"
    assert set(manifest.versions) == {"resnext-toolkit", "torch", "triton", "numpy"}
    assert '"name": "triton"' in (tmp_path / "sbom.json").read_text()
    assert manifest.request is not None
    again = export_command(ExportRequest(**manifest.request), "new")
    assert "--device cuda --kernels fused" in again
    shown = inspect(artifact)
    assert ", fused kernels)" in shown.stdout.splitlines()[0]
    facts = json.loads(inspect(artifact, "--json", "-").stdout)
    assert facts["manifest"]["package"]["kernels_from"] == "fused"


def test_baked_preprocessing_is_proven_on_pixels(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(digits)

    def normalized(pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.dtype == torch.uint8
        return model(torch.from_numpy(digits.preprocessing.normalize(pixels.numpy())))  # type: ignore[no-any-return]  # torch

    def make(*_: object) -> FakeLoader:
        loaders.append(FakeLoader(normalized))
        return loaders[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    result = export("--output", tmp_path / "out", "--bake-preprocessing", "--batch", "3")
    assert result.exit_code == 0, result.output
    manifest = read_artifact(tmp_path / "out").manifest
    assert manifest.preprocessing_baked
    assert (manifest.inputs[0].dtype, manifest.inputs[0].shape) == ("uint8", (3, 8, 8, 1))


@pytest.mark.usefixtures("loaders")
def test_the_folder_says_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export("--no-check").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits-fp32-pt2"]
    assert sorted(path.name for path in (tmp_path / "digits-fp32-pt2").iterdir()) == [
        "manifest.json",
        "model.pt2",
    ]


# ---- planted faults: caught, and nothing is left


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda logits: logits.roll(1, dims=1), "does not compute what PyTorch computes, batch 1"),
        (lambda logits: logits * float("nan"), "NaN"),
        (lambda logits: logits.flip(0), "batch 7"),  # rows swapped: batch 1 cannot show it
        (lambda logits: logits.half().float() + 1e-2, "max error"),
    ],
)
def test_code_that_computes_something_else_is_caught_and_leaves_nothing(
    fault: Callable[[torch.Tensor], torch.Tensor],
    told: str,
    digits: Weights,
    loaders: list[FakeLoader],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model(digits)

    def make(*_: object) -> FakeLoader:
        loaders.append(FakeLoader(lambda images: fault(model(images))))
        return loaders[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    result = export("--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert told in error(result)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_leaves_what_was_there(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_pt2(digits, tmp_path / "out").manifest

    def fails(_weights: Weights, _batch: BatchRange, path: Path, **_: object) -> None:
        path.write_bytes(b"half a package")
        raise SessionFailed("the package could not be compiled: a.cpp:1: error: no")

    monkeypatch.setattr(converter, "pt2_from_torch", fails)
    assert export("--output", tmp_path / "out").exit_code == 2  # not empty
    result = export("--output", tmp_path / "out", "--force")
    assert result.exit_code == 4
    assert "could not be compiled" in error(result)
    assert read_artifact(tmp_path / "out").manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(loaders) == 1


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda m: m["preprocessing"].update(mean=[0.9]), "preprocessing"),
        (lambda m: m["class_names"].reverse(), "class_names"),
        (lambda m: m["weights"].update(sha256="0" * 64), "weights_sha256"),
        (lambda m: m["config"].update(cardinality=4), "config"),
        (lambda m: m["package"].update(cpu_flags=[]), "package"),
        (lambda m: m["package"].update(torch="2.9.1"), "package"),
        (lambda m: m["package"]["layers"].clear(), "package"),
    ],
)
def test_an_edited_manifest_is_refused_unloaded(
    edit: Callable[[dict[str, Any]], None],
    named: str,
    digits: Weights,
    loaders: list[FakeLoader],
    tmp_path: Path,
) -> None:
    artifact = fake_package(tmp_path / "out", digits)
    manifest = json.loads((artifact.directory / "manifest.json").read_text())
    edit(manifest)
    (artifact.directory / "manifest.json").write_text(json.dumps(manifest))
    assert f"does not agree with the file on {named};" in error(inspect(artifact))
    path = str(artifact.directory)
    for result in (
        inspect(artifact),
        inspect(artifact, "--backend", "pt2"),
        CliRunner().invoke(parity.main, ["--artifact", path]),
        CliRunner().invoke(classify.main, [str(PICTURE), "--artifact", path]),
    ):
        assert result.exit_code == 4, result.output
        error(result)
    assert not loaders


def test_a_damaged_file_is_exit_4_with_and_without_its_digest(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path
) -> None:
    artifact = fake_package(tmp_path / "out", digits)
    data = artifact.path.read_bytes()
    artifact.path.write_bytes(data[:-100])
    result = inspect(artifact)
    assert result.exit_code == 4
    assert "truncated or altered" in error(result)
    manifest = json.loads((artifact.directory / "manifest.json").read_text())
    remember_built(hashlib.sha256(data[:-100]).hexdigest())
    manifest.update(
        file_sha256=hashlib.sha256(data[:-100]).hexdigest(), file_size_bytes=len(data) - 100
    )
    (artifact.directory / "manifest.json").write_text(json.dumps(manifest))
    result = inspect(artifact)
    assert result.exit_code == 4
    assert "is no readable .pt2 package" in error(result)
    assert not loaders


# ---- calls that are off


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--onnx", "PARENT"], "made from the weights, not from an ONNX artifact; drop --onnx"),
        (["--merge-groups", "32"], "drop --merge-groups"),
        (["--precision", "fp16", "--io", "native"], "drop --io"),
        (["--for", "ort"], "drop --for"),
        (["--precision", "int8", "--calibration", "random"], "drop --calibration"),
        (["--tf32"], "--tf32 is for engines"),
        (["--target", "sm_89"], "--target is for engines"),
        (["--device", "tpu"], "unknown device 'tpu'; did you mean 'cpu'? Known: cpu, cuda"),
        (["--batch", "1,8"], "batch '1,8' is not"),
        (["--batch", "8:1"], "MIN <= OPT"),
        (["--kernels", "cudnn"], "unknown kernels 'cudnn'"),
        (["--format", "onnx", "--device", "cpu"], "--device is for --format pt2"),
        (["--format", "onnx", "--kernels", "fused"], "--kernels is for --format pt2"),
        (["--format", "trt-rtx", "--device", "cuda"], "--device is for --format pt2"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    arguments: list[str],
    told: str,
    digits_artifact: Artifact,
    loaders: list[FakeLoader],
    tmp_path: Path,
) -> None:
    named = [str(digits_artifact.directory) if word == "PARENT" else word for word in arguments]
    result = export(*named, "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert told in error(result)
    assert list(tmp_path.iterdir()) == []
    assert not loaders


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8"])
def test_a_precision_that_a_package_does_not_take_is_refused_before_weights_are_loaded(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.weights.spec.load_weights", None)
    result = export("--precision", precision, "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert f"made in fp32 or fp16, not in {precision}" in error(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "fp16"], "not on cpu: use --device cuda, or drop --kernels"),
        (["--device", "cuda"], "not in fp32: use --precision fp16, or drop --kernels"),
    ],
)
def test_what_fused_kernels_do_not_take_is_refused_before_weights_are_loaded(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.weights.spec.load_weights", None)
    result = export("--kernels", "fused", *words, "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert told in error(result)
    assert list(tmp_path.iterdir()) == []


def test_the_kernels_of_a_request_are_those_that_the_record_takes() -> None:
    _, annotation = options_of(PackageOptions)["kernels"]
    assert str(KernelsFrom) in str(annotation)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_exit_3_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.weights.spec.load_weights", None)
    result = export("--device", "cuda", "--output", tmp_path / "out")
    assert result.exit_code == 3
    assert "cannot use a CUDA device here" in error(result)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What could be compiled before and afterwards is not what a test plants."""
    obstacle.cache_clear()
    yield
    obstacle.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    "compiler", ["/nowhere/g++", "false"]
)  # not there, and there but of no use
def test_a_compiler_that_does_not_work_is_exit_3_before_weights_are_loaded(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.weights.spec.load_weights", None)
    monkeypatch.setenv("CXX", compiler)
    result = export("--output", tmp_path / "out")
    assert result.exit_code == 3, result.output
    assert "no working C++ compiler was found" in error(result)
    assert "apt-get install g++" in error(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "raised",
    [
        OSError(
            "CUDA_HOME environment variable is not set. Please set it to your CUDA install root."
        ),
        RuntimeError(
            "C++ compile error\nmodel.cpp:3:10: fatal error: cuda.h: No such file or directory"
        ),
        RuntimeError(
            "C++ compile error\n/usr/bin/ld: cannot find -lcuda: No such file or directory"
        ),
    ],
)
def test_cudas_headers_that_are_not_there_are_named(raised: Exception) -> None:
    with (
        pytest.raises(MissingRequirement, match="set CUDA_HOME to it") as caught,
        converter._compiler_errors(),
    ):
        raise raised
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler is asked for first")
def test_a_gpu_without_the_toolkit_is_told_of_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.weights.spec.load_weights", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(toolchain, "_toolkits", lambda: iter([tmp_path]))
    result = export("--device", "cuda", "--output", tmp_path / "out")
    assert result.exit_code == 3, result.output
    assert "install the toolkit, set CUDA_HOME to it" in error(result)


def test_an_error_of_the_disk_stays_one() -> None:
    with pytest.raises(OSError, match="No space left"), converter._compiler_errors():
        raise OSError(28, "No space left on device")


# ---- inspect


def test_inspect_reads_the_passport_and_loads_nothing(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path
) -> None:
    artifact = fake_package(tmp_path / "out", digits)
    result = inspect(artifact, "--require-loadable", "--require-delivered", "1")
    assert result.exit_code == 0, result.output
    said = {line[:11].strip(): line[11:] for line in result.stdout.splitlines()}
    host = this_host()
    assert f"pt2, PyTorch {host.torch}, {host.cpu_capability})" in said["artifact"]
    assert said["batch"] == "1..any"
    assert said["parity"] == "none recorded"
    assert said["built"].endswith(f"on {host.platform}, by PyTorch {host.torch} for cpu")
    assert said["for"].startswith(host.cpu_capability)
    assert said["kernels"] == "1 addmm_out, 13 convolution"
    assert said["here"] == "this machine can load it"
    assert (
        said["delivered"]
        == "float32 in 100.0% of convolution and product FLOPs (from the manifest, the graph that"
        " the compiler was given)"
    )
    assert "layer3.0.conv2" in result.stdout
    assert "layer3.0.conv2" not in inspect(artifact, "--no-layers").stdout
    assert not loaders


def test_a_layer_of_another_precision_is_caught(digits: Weights, tmp_path: Path) -> None:
    given = [layer.model_dump() for layer in record_here(digits).layers]
    given[3]["dtype"] = "float16"
    result = inspect(
        fake_package(tmp_path / "out", digits, record_here(digits, layers=given)),
        "--require-delivered",
        "1",
    )
    assert result.exit_code == 1
    assert f"; not in {given[3]['module']} float16" in result.stdout
    assert "delivers fp32 to 9" in error(result)


def test_a_package_of_another_machine_comes_with_the_reason_and_the_way_to_make_one(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path
) -> None:
    artifact = fake_package(
        tmp_path / "out", digits, record_here(digits, torch="2.9.1", platform="linux-riscv64")
    )
    result = inspect(artifact, "--require-loadable")
    assert result.exit_code == 3
    assert "does not load here: it was compiled by PyTorch 2.9.1, installed is" in error(result)
    assert result.stdout.count("cannot be loaded: ") == 2
    assert result.stdout.count(" -> export it again on this machine, or run it where") == 2
    assert "rebuild    " not in result.stdout
    facts = json.loads(inspect(artifact, "--json", "-").stdout)
    assert facts["loadable_here"] is False
    assert len(facts["obstacles"]) == 2
    assert [set(obstacle) for obstacle in facts["obstacles"]] == [{"reason", "fix", "rebuild"}] * 2
    assert all(obstacle["rebuild"] for obstacle in facts["obstacles"])
    assert facts["rebuild"] is None  # the manifest has no request
    asked_for = artifact.manifest.model_copy(update={"request": {"format": "pt2"}})
    (artifact.directory / "manifest.json").write_text(asked_for.model_dump_json())
    again = f"resnext-export rebuild {artifact.directory}"
    assert f"rebuild    {again}" in inspect(artifact).stdout
    assert json.loads(inspect(artifact, "--json", "-").stdout)["rebuild"] == again
    (artifact.directory / "manifest.json").write_text(artifact.manifest.model_dump_json())
    assert facts["delivered_share"] == 1
    assert facts["manifest"]["package"]["kernels"] == {"addmm_out": 1, "convolution": 13}
    for asked in (
        inspect(artifact, "--backend", "pt2"),
        CliRunner().invoke(parity.main, ["--artifact", str(artifact.directory)]),
        CliRunner().invoke(classify.main, [str(PICTURE), "--artifact", str(artifact.directory)]),
    ):
        assert asked.exit_code == 3, asked.output
        assert "export it again on this machine" in error(asked)
    assert not loaders


def test_a_processor_without_the_features_is_refused_unloaded(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = fake_package(
        tmp_path / "out", digits, record_here(digits, cpu_flags=("avx2", "avx512f"))
    )
    older = replace(this_host(), cpu_flags=frozenset({"avx2"}))
    monkeypatch.setattr(compatibility, "this_host", lambda: older)
    monkeypatch.setattr(door, "this_host", lambda: older)
    result = inspect(artifact, "--require-loadable")
    assert result.exit_code == 3
    assert "may use avx512f, which this processor lacks" in error(result)
    assert CliRunner().invoke(parity.main, ["--artifact", str(artifact.directory)]).exit_code == 3
    assert not loaders


def test_the_loaded_package_is_asked_where_a_backend_is_named(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path
) -> None:
    artifact = fake_package(tmp_path / "out", digits)
    result = inspect(artifact, "--backend", "pt2", "--require-delivered", "1")
    assert result.exit_code == 0, result.output
    assert "(reported by pt2, running)" in result.stdout
    assert len(loaders) == 1


def test_a_copy_in_another_folder_is_the_same_package(
    digits: Weights, loaders: list[FakeLoader], tmp_path: Path
) -> None:
    artifact = fake_package(tmp_path / "out", digits)
    shutil.copytree(artifact.directory, tmp_path / "copy")
    result = CliRunner().invoke(
        parity.main, ["--artifact", str(tmp_path / "copy"), "--images", "14"]
    )
    assert result.exit_code == 0, result.output
    assert "on pt2 against float64 PyTorch" in result.stdout
    assert len(loaders) == 1
