"""The front door: what `resnext_bench.benchmark` measures, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import resnext_bench
from exported import export_onnx
from fakes.calm import calm
from resnext.artifact.files import Artifact
from resnext.errors import BadArtifact, BadWeights, ResnextError, UnknownName, UsageError
from resnext.runtimes.ort.session import OrtSession
from resnext.weights import checkpoint, spec
from resnext.weights.spec import Weights, load_weights
from resnext_bench import Run, benchmark, read_run
from resnext_bench.report import HEADINGS

QUICK: dict[str, Any] = {"duration": 0.02, "warmup": 0, "rounds": 3, "device": "cpu"}


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy test machine proves nothing here."""
    calm(monkeypatch)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("bench") / "mine", check=False)


def measured(run: Run) -> list[tuple[str, str, int]]:
    return [(row.backend, row.variant, row.batch) for row in run.rows]


@pytest.mark.exhaustive
def test_a_live_model_beside_an_artifact_of_its_weights(artifact: Artifact) -> None:
    run = benchmark(["torch", artifact], batch=[1, 8], **QUICK)
    assert measured(run) == [
        ("torch", "", 1),
        ("ort", "mine", 1),
        ("torch", "", 8),
        ("ort", "mine", 8),
    ]
    assert [row.status for row in run.rows] == ["valid"] * 4, [row.reasons for row in run.rows]
    assert run.weights.sha256 == artifact.manifest.weights.sha256
    assert run.rows[1].artifact_sha256 == artifact.manifest.file_sha256


def test_every_row_of_a_timed_batch_is_examined(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtSession.run

    def one_row_wrong(self: OrtSession, inputs: Any) -> Any:
        outputs = real(self, inputs)
        for logits in outputs.values():
            if len(logits) == 32:
                logits[13] = logits[12]
        return outputs

    monkeypatch.setattr(OrtSession, "run", one_row_wrong)
    (row,) = benchmark(artifact, runtimes=["ort-cpu"], batch=32, **QUICK).rows
    assert row.parity is not None
    assert row.parity.passed  # which looks at sixteen rows
    assert row.integrity is not None
    assert {law.law for law in row.integrity.laws if law.failure} == {"permuted", "neighbor"}
    assert row.status == "invalid"
    assert "its rows are not independent: permuted: batch 32, row 13" in row.reasons[0]


def test_the_order_is_that_of_the_subjects(artifact: Artifact) -> None:
    run = benchmark([artifact.directory, "torch"], **QUICK)
    assert measured(run) == [("ort", "mine", 1), ("torch", "", 1)]
    assert run.rows[0].timings[0].speedup == pytest.approx((1.0, 1.0, 1.0))


def test_one_subject_needs_no_list_and_a_path_may_be_a_string(artifact: Artifact) -> None:
    assert measured(benchmark(str(artifact.directory), **QUICK)) == [("ort", "", 1)]
    assert measured(benchmark("torch", weights="digits", batch=2, **QUICK)) == [("torch", "", 2)]


def test_artifacts_run_on_the_runtimes_that_are_named(artifact: Artifact, digits: Weights) -> None:
    run = benchmark(artifact, runtimes=["ort-cpu", "torch"], weights=digits, **QUICK)
    assert measured(run) == [("ort-cpu", "", 1), ("torch", "", 1)]


def test_weights_are_loaded_once_or_not_at_all(
    artifact: Artifact, digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    real = checkpoint.read_weights

    def counting(path: Path, *args: Any, **kwargs: Any) -> Weights:
        loads.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(spec, "read_weights", counting)
    benchmark(artifact, weights=digits, **QUICK)
    assert len(loads) == 0
    benchmark(["torch", artifact], **QUICK)
    assert len(loads) == 1


def test_a_run_prints_its_table_and_is_stored_and_read(artifact: Artifact, tmp_path: Path) -> None:
    steps: list[str] = []
    run = benchmark(["torch", artifact], progress=steps.append, **QUICK)
    table = run.table()
    assert all(heading in table for heading in HEADINGS)
    assert table.startswith("VALID: ")
    assert table.count("\nVALID ") == 2
    assert "\x1b" not in table
    assert run.environment.cpu in table
    assert "| VALID |" in run.markdown()
    assert "opening torch batch 1" in steps
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert read_run(tmp_path / "run.json") == run


def test_a_subject_that_fails_has_its_row_and_the_others_go_on(artifact: Artifact) -> None:
    run = benchmark(["torch", "trt", artifact], **QUICK)
    torch, trt, ort = run.rows
    assert (torch.status, trt.status, ort.status) == ("valid", "failed", "valid")
    assert trt.reasons[0] in run.table()


def test_what_is_left_out_is_said(digits: Weights) -> None:
    notes: list[str] = []
    run = benchmark(
        ["torch", "ort-cpu"],
        weights=digits,
        precision=["fp32", "bf16"],
        note=notes.append,
        **QUICK,
    )
    assert measured(run) == [("torch", "fp32", 1), ("ort-cpu", "fp32", 1), ("torch", "bf16", 1)]
    assert notes == ["ort-cpu does not run bf16: left out for bf16"]


@pytest.mark.parametrize(
    ("subjects", "call", "error", "message"),
    [
        ([], {}, UsageError, "nothing to measure"),
        (["torhc"], {}, UnknownName, "did you mean 'torch'"),
        (["no/such/folder"], {}, BadArtifact, "no artifact at"),
        (["torch"], {"batch": 0}, UsageError, "`batch` must be at least 1"),
        (["torch"], {"batch": []}, UsageError, "`batch` must be at least 1"),
        (["torch"], {"precision": "fp17"}, UnknownName, "unknown precision 'fp17'"),
        (["torch"], {"duration": 0}, UsageError, "duration"),
        (["torch"], {"calibration": "digits"}, UsageError, "`calibration` is for int8 and fp8"),
        (["torch"], {"runtimes": ["ort"]}, UsageError, "`runtimes` is for artifacts"),
        (["torch"], {"accuracy_images": 5}, UsageError, "give that too"),
        (["mine"], {"merge_groups": 32}, UsageError, "keeps its groups"),
        (["mine"], {"runtimes": ["orr"]}, UnknownName, "unknown runtime 'orr'"),
        (["mine"], {"precision": "int8"}, UsageError, "is fp32"),
        (["mine"], {"weights": "seeded"}, BadWeights, "not those"),
        (["mine", "mine"], {}, UsageError, "given twice"),
        (["mine", "torch"], {"precision": ["fp32", "fp16"]}, UsageError, "`precision`"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    artifact: Artifact,
    subjects: list[str],
    call: dict[str, Any],
    error: type[ResnextError],
    message: str,
) -> None:
    named: list[Any] = [artifact if name == "mine" else name for name in subjects]
    with pytest.raises(error) as refused:
        benchmark(named, **(QUICK | {"weights": "digits"} | call))
    assert message in str(refused.value)
    if error is not BadArtifact:
        assert "--" not in str(refused.value)


def test_weights_of_another_network_are_refused(artifact: Artifact) -> None:
    other = load_weights("seeded", artifact.manifest.config)
    with pytest.raises(BadWeights, match="not those"):
        benchmark(artifact, weights=other, **QUICK)


def test_the_public_names_resolve() -> None:
    assert set(resnext_bench.__all__) == {
        "ColdStart",
        "Comparison",
        "History",
        "Load",
        "LoadGen",
        "Run",
        "Soak",
        "Tuned",
        "benchmark",
        "compare_runs",
        "read_history",
        "read_run",
        "read_tuned",
        "tune_artifact",
    }
    for name in resnext_bench.__all__:
        assert getattr(resnext_bench, name).__name__ == name
        assert name in dir(resnext_bench)
    with pytest.raises(AttributeError, match="no_such_name"):
        resnext_bench.no_such_name  # noqa: B018  # the look-up is the test
