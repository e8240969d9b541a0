from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from exported import derive_onnx, export_onnx
from fakes.calm import calm
from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.precision import Precision
from resnext.runtimes.ort import session
from resnext.weights.spec import Weights, load_weights
from resnext_bench.artifacts import Artifacts
from resnext_bench.cases import (
    Axes,
    Candidate,
    candidates_of_artifacts,
    candidates_of_weights,
    merge_problem,
    supported_cases,
)
from resnext_bench.cli.bench import main
from resnext_bench.plan import Case
from resnext_bench.result import read_run
from resnext_export import Stored
from resnext_export.request import ExportRequest


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifacts(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("candidates")
    plain = export_onnx(weights, folder / "plain", check=False)
    recipes = {
        "int8": ExportRequest(precision="int8"),
        "trt8": ExportRequest(precision="int8", runtime="trt"),
        "merged": ExportRequest(precision="int8", merge_groups=16),
        "bf16": ExportRequest(precision="bf16"),
    }
    made = {
        name: derive_onnx(plain, weights, folder / name, recipe, check=False)
        for name, recipe in recipes.items()
    }
    return {"plain": plain, **made}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    calm(monkeypatch)

    def run(*args: str) -> Result:
        quick = ("--duration", "0.05", "--warmup", "0", "--json", "run.json")
        return CliRunner().invoke(main, [*args, *quick])

    return run


# --- which rows there are
# ----------------------------------------------------------------------------------------


def test_a_single_candidate_has_no_name() -> None:
    assert candidates_of_weights(("int8",), None, None) == {"": Candidate("int8")}
    assert list(candidates_of_weights(("fp32", "int8"), None, None)) == ["fp32", "int8"]


def test_only_quantized_candidates_are_calibrated() -> None:
    candidates = candidates_of_weights(("fp32", "int8", "fp8"), "photos", 7)
    assert [candidate.calibration for candidate in candidates.values()] == [
        (None, None),
        ("photos", 7),
        ("photos", 7),
    ]


def test_combinations_that_cannot_be_are_left_out_by_name() -> None:
    candidates = candidates_of_weights(("fp32", "int8", "bf16"), None, None)
    cases, notes = supported_cases(("torch", "ort-cpu"), Axes((1, 8)), candidates)
    assert [(case.backend, case.candidate) for case in cases if case.batch == 1] == [
        ("torch", "fp32"),
        ("ort-cpu", "fp32"),
        ("ort-cpu", "int8"),
        ("torch", "bf16"),
    ]
    assert len(cases) == 8
    assert notes == [
        "torch does not run int8: left out for int8",
        "ort-cpu does not run bf16: left out for bf16",
    ]


def test_what_was_asked_for_alone_is_not_left_out() -> None:
    cases, notes = supported_cases(
        ("torch",), Axes((1,)), candidates_of_weights(("int8",), None, None)
    )
    assert (len(cases), notes) == (1, [])


@pytest.mark.exhaustive
def test_a_live_model_is_measured_once_for_each_precision(artifacts: dict[str, Artifact]) -> None:
    paths = tuple(artifacts[name].directory for name in ("int8", "merged", "plain"))
    _, candidates = candidates_of_artifacts(paths, None, None)
    cases, _ = supported_cases(("torch", "ort-cpu"), Axes((1,)), candidates)
    assert [(case.backend, case.candidate) for case in cases] == [
        ("ort-cpu", "int8"),
        ("ort-cpu", "merged"),
        ("torch", "plain"),
        ("ort-cpu", "plain"),
    ]


def test_artifacts_of_different_weights_are_not_compared(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    other = export_onnx(
        load_weights("seeded", artifacts["plain"].manifest.config), tmp_path / "other", check=False
    )
    with pytest.raises(UsageError, match="different weights"):
        candidates_of_artifacts((artifacts["plain"].directory, other.directory), None, None)
    with pytest.raises(UsageError, match="given twice"):
        candidates_of_artifacts((artifacts["plain"].directory,) * 2, None, None)
    with pytest.raises(UsageError, match="is int8; drop `precision` fp32"):
        candidates_of_artifacts((artifacts["int8"].directory,), None, ("fp32",))


@pytest.mark.parametrize(
    "args",
    [
        ("--calibration", "digits"),
        ("--calibration-images", "3", "--precision", "fp32"),
        ("--precision", "int9"),
    ],
)
def test_options_that_do_not_go_together(
    args: tuple[str, ...], bench: Callable[..., Result]
) -> None:
    result = bench("--backend", "ort-cpu", "--weights", "digits", *args)
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


# --- what is measured
# --------------------------------------------------------------------------------------------


def rows(path: str = "run.json") -> dict[str, Any]:
    return {f"{row.backend} {row.variant}".strip(): row for row in read_run(Path(path)).rows}


def told(row: Any) -> str:
    """Reasons against a row, without those of a machine that is not quiet."""
    return "; ".join(reason for reason in row.reasons if "steady" not in reason)


@pytest.mark.exhaustive
def test_precisions_are_measured_side_by_side(bench: Callable[..., Result]) -> None:
    result = bench(
        "--backend", "torch,ort-cpu,openvino", "--weights", "digits", "--precision", "fp32,int8"
    )
    assert "torch does not run int8" in result.output
    found = rows()
    assert list(found) == [
        "torch fp32",
        "ort-cpu fp32",
        "openvino fp32",
        "ort-cpu int8",
        "openvino int8",
    ]
    for name, row in found.items():
        assert told(row) == "", name
        assert row.precision == name.split()[1]
        assert row.parity.passed
    for name in ("ort-cpu int8", "openvino int8"):
        assert found[name].parity.error_ratio < 2
    assert read_run(Path("run.json")).precision == "fp32, int8"


def test_a_graph_in_another_runtimes_form_is_no_int8(
    bench: Any, artifacts: dict[str, Artifact]
) -> None:
    given = [str(artifacts[name].directory) for name in ("int8", "trt8")]
    bench("--backend", "ort-cpu", "--artifact", given[0], "--artifact", given[1])
    found = rows()
    assert told(found["ort-cpu int8"]) == ""
    assert "int8 asked for, but only 0.0 %" in told(found["ort-cpu trt8"])
    assert "scheme for trt" in told(found["ort-cpu trt8"])


def test_a_runtime_that_computes_something_else_is_caught(
    bench: Any, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session.OrtSession.run

    def off(self: Any, inputs: Any) -> Any:
        logits = original(self, inputs)
        return {name: array + 0.3 * np.abs(array).max() for name, array in logits.items()}

    monkeypatch.setattr(session.OrtSession, "run", off)
    bench("--backend", "ort-cpu", "--artifact", str(artifacts["int8"].directory))
    (row,) = rows().values()
    assert row.parity.max_error < 2  # which the wide gate alone would let pass
    assert "times what its precision costs" in told(row)


def test_bfloat16_runs_in_pytorch_and_not_on_onnx_runtimes_cpu(
    bench: Any, artifacts: dict[str, Artifact]
) -> None:
    result = bench("--backend", "torch,ort-cpu", "--artifact", str(artifacts["bf16"].directory))
    found = rows()
    assert result.exit_code in (1, 2)
    assert told(found["torch"]) == ""
    assert found["ort-cpu"].status == "failed"
    assert "does not run bf16" in told(found["ort-cpu"])


# Merged groups.


def test_each_width_of_groups_is_a_candidate() -> None:
    candidates = candidates_of_weights(("fp32", "int8"), None, None, (None, 32, "auto"))
    assert list(candidates) == [
        "fp32",
        "fp32 merged 32",
        "fp32 merged auto",
        "int8",
        "int8 merged 32",
        "int8 merged auto",
    ]
    cases, notes = supported_cases(
        ("torch", "ort-cpu", "pt2"),
        Axes((1,)),
        candidates_of_weights(("fp32",), None, None, (None, 32)),
    )
    assert [str(case) for case in cases] == [
        "torch batch 1",
        "ort-cpu batch 1",
        "pt2 batch 1",
        "torch merged 32 batch 1",
        "ort-cpu merged 32 batch 1",
    ]
    assert notes == ["pt2 packages keep the groups as they are: left out for merged 32"]


@pytest.mark.parametrize(
    ("backend", "merge", "said"),
    [
        ("torch", "auto", None),
        ("torch-folded", 32, None),
        ("torch-compile", "auto", None),
        ("ort-cpu", "auto", None),
        ("openvino", "auto", None),
        ("ort-cuda", 32, None),
        ("trt", 32, None),
        ("ort-cuda", "auto", "for ort-cuda give a number"),
        ("trt", "auto", "for trt give a number"),
        ("pt2", 32, "keep the groups"),
    ],
)
def test_auto_is_for_backends_that_can_be_timed_where_they_run(
    backend: str, merge: Any, said: str | None
) -> None:
    problem = merge_problem(backend, merge)
    assert (problem is None) == (said is None)
    if said is not None:
        with pytest.raises(UsageError, match=said):
            supported_cases(
                (backend,), Axes((1,)), candidates_of_weights(("fp32",), None, None, (merge,))
            )


@pytest.mark.parametrize("value", ["1", "4097", "x", "off,,32", "auto,-3"])
def test_a_width_that_is_none_is_refused(value: str) -> None:
    done = CliRunner().invoke(main, ["--backend", "torch", "--merge-groups", value])
    assert done.exit_code == 2
    assert "must be off, auto, or a number of channels" in done.output


def test_merged_rows_are_right_and_say_what_they_got(tmp_path: Path) -> None:
    command = [
        "--backend",
        "torch,torch-folded,ort-cpu",
        "--weights",
        "digits",
        "--batch",
        "4",
        "--device",
        "cpu",
    ]
    command += [
        "--merge-groups",
        "off,16",
        "--rounds",
        "2",
        "--duration",
        "0.05",
        "--warmup",
        "0",
        "--json",
        f"{tmp_path}/r.json",
    ]
    CliRunner().invoke(main, command)  # such short runs may be unsteady
    run = read_run(tmp_path / "r.json")
    assert [(row.backend, row.variant) for row in run.rows] == [
        (name, candidate)
        for candidate in ("", "merged 16")
        for name in ("torch", "torch-folded", "ort-cpu")
    ]
    for row in run.rows:
        assert row.parity is not None
        assert row.parity.passed
    groups = [row.notes.get("groups") for row in run.rows if row.backend != "ort-cpu"]
    assert groups == [None, None, *["merged to 16 channels at least"] * 2]
    plain, merged = (row for row in run.rows if row.backend == "ort-cpu")
    assert plain.artifact_sha256 != merged.artifact_sha256
    assert (merged.model_size_bytes or 0) > (plain.model_size_bytes or 0)


def test_an_artifact_keeps_its_groups(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["--backend", "ort", "--artifact", str(tmp_path), "--merge-groups", "32"]
    )
    assert done.exit_code == 2
    assert "an artifact keeps its groups" in done.output


@pytest.mark.parametrize(
    ("backend", "precision", "scheme"),
    [
        ("ort", "int8", "ort"),
        ("ort-cpu", "int8", "ort"),
        ("ort-trt", "int8", "trt"),
        ("ort-trt-rtx", "int8", "trt"),
        ("openvino", "int8", "openvino"),
        ("trt", "int8", "trt"),
        ("trt-rtx", "int8", "trt"),
        ("trt", "fp8", "trt"),
        ("onnx-reference", "fp8", "trt"),
        ("openvino", "fp16", None),
    ],
)
def test_a_backend_gets_a_graph_of_its_own_scheme(
    backend: str,
    precision: Precision,
    scheme: str | None,
    weights: Weights,
    artifacts: dict[str, Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[ExportRequest] = []

    def build(request: ExportRequest, *_: Any) -> Stored:
        requests.append(request)
        return Stored(artifacts["plain"], reused=True)

    monkeypatch.setattr("resnext_bench.artifacts.build_or_reuse", build)
    case = Case(backend, 8)
    Artifacts(weights, [case], "auto", lambda _: None).build(case, Candidate(precision))
    (derived,) = [request for request in requests if request.precision == precision]
    assert derived.runtime == scheme
