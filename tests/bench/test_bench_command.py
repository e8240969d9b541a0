"""resnext-bench from the outside: its tables, files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import junit_schema
from exported import export_onnx
from fakes.calm import calm
from resnext.errors import BadInput
from resnext.machine.cuda_driver import probe_driver
from resnext.machine.environment import record_environment
from resnext.machine.nvml import open_nvml
from resnext.network.config import VARIANTS
from resnext.network.layers import layers
from resnext.weights.spec import load_weights
from resnext_bench.cli import bench as cli
from resnext_bench.report import HEADINGS
from resnext_bench.result import read_run

FAST = [
    "--weights",
    "digits",
    "--device",
    "cpu",
    "--duration",
    "0.2",
    "--rounds",
    "3",
    "--warmup",
    "0.05",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    calm(monkeypatch)  # a busy test machine proves nothing here


def bench(*args: str) -> Result:
    return CliRunner().invoke(cli.main, [*FAST, *args], catch_exceptions=False)


def test_two_backends_and_two_batches_give_four_valid_rows_and_reports(tmp_path: Path) -> None:
    result = bench(
        "--backend",
        "torch,ort",
        "--batch",
        "1,8",
        "--json",
        f"{tmp_path}/r.json",
        "--markdown",
        f"{tmp_path}/r.md",
        "--html",
        f"{tmp_path}/r.html",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("VALID: ")
    assert result.stdout.count("\nVALID ") == 4
    run = read_run(tmp_path / "r.json")
    assert [(row.backend, row.batch) for row in run.rows] == [
        ("torch", 1),
        ("ort", 1),
        ("torch", 8),
        ("ort", 8),
    ]
    for row in run.rows:
        timing = row.timings[0]
        assert timing.boundary == "host"
        assert 6 <= len(timing.rounds_ns) <= 9
        assert row.parity is not None
        assert row.parity.passed
        assert row.delivered == f"14 float32 on {'cpu' if row.backend == 'torch' else 'CPU'}"
        assert row.model_size_bytes is not None
        assert row.model_size_bytes > 500_000
        assert set(row.modules) == {layer.name for layer in layers(VARIANTS[str(run.model)])}
        assert set(row.modules.values()) == {"float32"}
    assert run.command[:3] == ("resnext-bench", "--weights", "digits")
    assert (tmp_path / "r.html").read_text() == run.html()
    assert run.rows[1].artifact_sha256 is not None
    text = (tmp_path / "r.md").read_text()
    assert f"| {' | '.join(HEADINGS)} |" in text
    assert text.count("| VALID |") == 4
    assert run.environment.cpu in text


def test_json_to_stdout_is_json_alone() -> None:
    result = bench("--backend", "torch", "--json", "-")
    assert json.loads(result.stdout)["format_version"] == 1
    assert "VALID" in result.stderr


@pytest.mark.exhaustive
def test_the_artifact_is_exported_once_and_said_to_be_reused(tmp_path: Path) -> None:
    bench("--backend", "ort-cpu", "--json", f"{tmp_path}/first.json")
    result = bench("--backend", "ort-cpu", "--json", f"{tmp_path}/second.json")
    assert len(read_run(tmp_path / "second.json").reused) == 1
    assert "reused" in result.output


@pytest.mark.exhaustive
def test_an_artifact_that_was_named_is_what_runs(tmp_path: Path) -> None:
    artifact = export_onnx(load_weights("digits"), tmp_path / "a")
    args = ["--backend", "ort-cpu", "--artifact", f"{tmp_path}/a", "--json", f"{tmp_path}/r.json"]
    assert bench(*args, "--junit", f"{tmp_path}/r.xml").exit_code == 0
    report = (tmp_path / "r.xml").read_text()
    assert junit_schema.problems(report) == []
    assert [report.count(f"<{tag}") for tag in ("testcase", "failure", "error")] == [1, 0, 0]
    assert read_run(tmp_path / "r.json").rows[0].artifact_sha256 == artifact.manifest.file_sha256


def test_enough_samples_give_p90_and_p99(tmp_path: Path) -> None:
    bench(
        "--backend",
        "ort-cpu",
        "--samples",
        "662",
        "--duration",
        "0.01",
        "--json",
        f"{tmp_path}/r.json",
    )
    stats = read_run(tmp_path / "r.json").rows[0].timings[0].stats
    assert stats.count >= 662
    assert stats.p99_ns is not None
    assert stats.p90_ns is not None
    assert stats.median_ns <= stats.p90_ns <= stats.p99_ns


@pytest.mark.skipif(probe_driver().problem is None, reason="this machine has a CUDA device")
def test_a_missing_gpu_has_its_row_and_exit_code_3(tmp_path: Path) -> None:
    args = ["--backend", "ort-cuda,ort-cpu", "--device", "auto", "--json", f"{tmp_path}/r.json"]
    result = bench(*args)
    assert result.exit_code == 3
    failed, fine = read_run(tmp_path / "r.json").rows
    assert failed.status == "failed"
    assert "no CUDA device" in failed.reasons[0]
    assert fine.status == "valid"
    assert "no CUDA device" in result.output


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--backend", "onnxruntime"], 2, "unknown backend 'onnxruntime'"),
        (["--backend", "torch", "--batch", "0"], 2, "at least 1"),
        (["--backend", "torch", "--batch", "-4"], 2, "at least 1"),
        (["--backend", "torch", "--batch", "1,x"], 2, "at least 1"),
        (["--backend", "torch", "--duration", "0"], 2, "duration"),
        (["--backend", "torch", "--model", "resnext50"], 2, "did you mean 'resnext50_32x4d'"),
        (
            ["--backend", "ort-cpu", "--artifact", "/nowhere/at/all"],
            4,
            "no artifact at /nowhere/at/all",
        ),
        (["--backend", "torch", "--json", "/proc/nowhere/r.json"], 3, "cannot write"),
    ],
)
def test_a_bad_call_is_one_clear_line(args: list[str], code: int, message: str) -> None:
    result = bench(*args)
    assert result.exit_code == code
    assert message.lower() in " ".join(result.stderr.split()).lower()
    assert "Traceback" not in result.stderr


@pytest.mark.exhaustive
def test_another_batch_than_a_fixed_artifacts_fails_its_row(tmp_path: Path) -> None:
    from resnext.artifact.manifest import BatchRange

    export_onnx(load_weights("digits"), tmp_path / "a", batch=BatchRange.parse("4"))
    result = bench("--backend", "ort-cpu", "--artifact", f"{tmp_path}/a", "--batch", "4,8")
    assert result.exit_code == 4
    assert "takes batch 4, not 8" in result.output


def test_the_environment_names_machine_and_versions_and_no_host_or_user() -> None:
    import getpass
    import socket

    with open_nvml() as nvml:
        environment = record_environment(nvml)
    assert environment.physical_cores >= 1
    assert {"torch", "onnx", "numpy"} <= set(environment.packages)
    words = environment.model_dump_json()
    assert socket.gethostname() not in words
    assert f'"{getpass.getuser()}"' not in words


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 2}', "not json"])
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BadInput, match="is not a stored run"):
        read_run(tmp_path / "r.json")


def test_peak_memory_sees_what_a_block_takes() -> None:
    import numpy as np

    from resnext_bench.memory import peak_memory

    with peak_memory() as small:
        pass
    with peak_memory() as large:
        block = np.ones(100_000_000, np.uint8)
        del block  # a peak is a peak, also when the memory is free again
    if large.host_bytes is None:
        pytest.skip("this system does not tell peak memory")
    assert large.host_bytes > 95e6
    assert small.host_bytes is not None
    assert small.host_bytes < 20e6


def test_accuracy_stands_beside_latency_and_is_that_of_the_shipped_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = bench(
        "--backend",
        "torch,ort-cpu",
        "--batch",
        "8",
        "--accuracy",
        "digits",
        "--json",
        f"{tmp_path}/r.json",
        "--markdown",
        f"{tmp_path}/r.md",
    )
    assert result.exit_code == 0, result.output
    assert "test top-1" in result.output
    run = read_run(tmp_path / "r.json")
    for row in run.rows:
        assert row.accuracy is not None
        assert (row.accuracy.images, row.accuracy.losing_flips, row.accuracy.winning_flips) == (
            359,
            0,
            0,
        )
        assert row.accuracy.top1 == pytest.approx(353 / 359)
        assert row.accuracy.top1_low < row.accuracy.top1 < row.accuracy.top1_high
    assert run.rows[1].accuracy is not None
    assert run.rows[1].accuracy.artifact_sha256 == run.rows[1].artifact_sha256
    text = (tmp_path / "r.md").read_text()
    assert "| top-1 | test top-1 | agrees | flips +/- |" in text
    assert text.count("98.33%") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--accuracy", "no/such/folder"], 4, "no/such/folder"),
        (["--accuracy-images", "5"], 2, "--accuracy"),
        (["--accuracy", "digits", "--accuracy-images", "500"], 4, "359"),
        (["--accuracy", "random"], 4, "label"),
    ],
)
def test_images_that_cannot_be_used_are_refused_before_anything_is_measured(
    arguments: list[str], code: int, told: str
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = bench("--backend", "ort-cpu", *arguments)
    assert result.exit_code == code, result.output
    assert told in result.output
    assert "median" not in result.output
