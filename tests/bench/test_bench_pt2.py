"""``resnext-bench --backend pt2`` around a stand-in for the compiler: what it compiles, reuses and
says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from exported import export_onnx
from fakes.calm import calm
from fakes.package import FakeLoader, fake_package, fake_pt2_from_torch
from resnext.artifact.records import PackageRecord
from resnext.errors import MissingRequirement
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_bench.cli import bench as cli
from resnext_bench.result import read_run
from resnext_export import ExportRequest
from resnext_export.convert import pt2_from_torch as converter
from resnext_export.registry import PackageOptions

FAST = ["--weights", "digits", "--duration", "0.1", "--rounds", "2", "--warmup", "0.02"]


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """No compiler; the batch, precision and device that it would have been asked for."""
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    calm(monkeypatch)  # a busy test machine proves nothing here
    made: list[tuple[str, str, str]] = []
    model = load_model(load_weights("digits"))

    def compile_fake(weights: Weights, batch: Any, path: Path, **options: Any) -> PackageRecord:
        made.append((str(batch), options["precision"], options["device"]))
        return fake_pt2_from_torch(weights, batch, path, **options)

    monkeypatch.setattr(converter, "pt2_from_torch", compile_fake)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(model))
    return made


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, [*FAST, *arguments], catch_exceptions=False)


def test_each_batch_size_has_a_package_of_its_own_compiled_once(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    for again in (False, True):
        result = bench(
            "--backend", "pt2", "--batch", "1,3", "--device", "cpu", "--json", f"{tmp_path}/r.json"
        )
        assert result.exit_code == 0, result.output
        run = read_run(tmp_path / "r.json")
        assert len(run.reused) == (2 if again else 0)
        assert [(row.backend, row.batch, row.device) for row in run.rows] == [
            ("pt2", 1, "cpu"),
            ("pt2", 3, "cpu"),
        ]
        assert run.rows[0].artifact_sha256 != run.rows[1].artifact_sha256
        for row in run.rows:
            assert row.parity is not None
            assert row.parity.artifact_sha256 == row.artifact_sha256
            assert row.delivered == "14 float32 on cpu"
            assert row.notes["kernels"] == "1 addmm_out, 13 convolution"
    assert asked == [("1", "fp32", "cpu"), ("3", "fp32", "cpu")]


@pytest.mark.exhaustive
def test_an_onnx_artifact_beside_it_is_of_the_same_weights(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    export_onnx(load_weights("digits"), tmp_path / "onnx", precision="fp16")
    bench("--backend", "pt2", "--artifact", f"{tmp_path}/onnx", "--batch", "3", "--device", "cpu")
    assert asked == [("3", "fp16", "cpu")]


def test_a_precision_that_a_package_does_not_take_is_refused_or_left_out(
    asked: list[tuple[str, str, str]],
) -> None:
    alone = bench("--backend", "pt2", "--precision", "int8", "--device", "cpu")
    assert alone.exit_code == 2, alone.output
    assert "backend 'pt2' does not run int8" in alone.output
    among = bench("--backend", "pt2", "--precision", "fp32,int8", "--batch", "3", "--device", "cpu")
    assert "pt2 does not run int8: left out" in among.stderr
    assert asked == [("3", "fp32", "cpu")]


@pytest.mark.exhaustive
def test_of_several_onnx_artifacts_of_one_precision_it_runs_once(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    for name in ("a", "b"):
        export_onnx(load_weights("digits"), tmp_path / name)
    both = ["--artifact", f"{tmp_path}/a", "--artifact", f"{tmp_path}/b"]
    bench(
        "--backend",
        "pt2,torch",
        *both,
        "--batch",
        "3",
        "--device",
        "cpu",
        "--json",
        f"{tmp_path}/r.json",
    )
    assert [(row.backend, row.variant) for row in read_run(tmp_path / "r.json").rows] == [
        ("pt2", "a"),
        ("torch", "a"),
    ]
    assert asked == [("3", "fp32", "cpu")]


def test_a_package_that_was_named_is_what_runs(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    package = fake_package(tmp_path / "p", load_weights("digits"))
    result = bench(
        "--backend",
        "pt2",
        "--artifact",
        f"{tmp_path}/p",
        "--batch",
        "3",
        "--json",
        f"{tmp_path}/r.json",
    )
    assert result.exit_code == 0, result.output
    assert read_run(tmp_path / "r.json").rows[0].artifact_sha256 == package.manifest.file_sha256
    assert asked == []


@pytest.mark.parametrize(
    ("device", "there", "compiled_for"),
    [("auto", True, "cuda"), ("cpu", True, "cpu"), ("auto", False, "cpu")],
)
def test_it_is_compiled_for_the_device_that_it_would_run_on(
    device: str, there: bool, compiled_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext.runtimes.pt2 import toolchain
    from resnext_bench import artifacts

    seen: list[str | None] = []
    monkeypatch.setattr(toolchain, "obstacle", lambda _: None)

    def refuse(request: ExportRequest, *_: object) -> None:
        assert isinstance(request.options, PackageOptions)
        seen.append(request.options.device)
        raise MissingRequirement("far enough")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(artifacts, "build_or_reuse", refuse)
    result = bench("--backend", "pt2", "--device", device)
    assert result.exit_code == 3
    assert seen == [compiled_for]


def test_a_machine_without_a_compiler_fails_the_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MissingRequirement("no working C++ compiler was found: apt-get install g++")

    monkeypatch.setattr(converter, "pt2_from_torch", fails)
    result = bench("--backend", "pt2,torch", "--device", "cpu", "--json", f"{tmp_path}/r.json")
    assert result.exit_code == 3
    failed, fine = read_run(tmp_path / "r.json").rows
    assert "apt-get install g++" in failed.reasons[0]
    assert fine.status == "valid"
