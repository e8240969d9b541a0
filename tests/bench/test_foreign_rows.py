"""ONNX classifiers from elsewhere in a benchmark: on every runtime that takes ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fakes import foreign
from fakes.calm import calm
from resnext.errors import UsageError
from resnext.runtimes.ort.session import OrtSession
from resnext_bench.api import benchmark
from resnext_bench.cli.bench import main
from resnext_bench.report import headings, lines
from resnext_bench.result import Run

QUICK: dict[str, Any] = {
    "duration": 0.001,
    "rounds": 2,
    "warmup": 0.0,
    "precision_target": None,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)


def measured(path: Path, *runtimes: str, batch: int = 3) -> Run:
    return benchmark(path, runtimes=runtimes or None, batch=batch, **QUICK)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("nhwc", "half") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in foreign.CLASSIFIERS
    ],
)
def test_rows_of_a_classifier_are_compared_with_the_file(name: str, tmp_path: Path) -> None:
    path = foreign.write(foreign.CLASSIFIERS[name](), tmp_path / "model.onnx")
    runtimes = foreign.runtimes_for("fp16" if name == "half" else "fp32")
    run = measured(path, *runtimes, batch=4)
    assert [row.backend for row in run.rows] == list(runtimes)
    for row in run.rows:
        assert row.parity is not None
        assert (row.parity.passed, row.parity.reference) == (True, "onnx")
        assert row.integrity is not None
        assert row.integrity.passed
        assert row.distance is None
        if name != "half":  # which ONNX Runtime computes in float32
            assert row.status == "valid", row.reasons
    assert "trained network" in run.unknown
    assert run.model is None
    assert run.weights.source == str(path)
    of_limit = headings(run).index("of limit")
    assert [line[of_limit] for line in lines(run.rows[0], run)] == ["n/a"]
    shown = run.table()
    assert "against the file itself in float64" in shown
    assert "ONNX file from elsewhere" in shown
    assert Run.model_validate_json(run.model_dump_json(), strict=True) == run


def test_a_runtime_with_wrong_logits_has_an_invalid_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    right = OrtSession.run

    def wrong(self: OrtSession, inputs: Any) -> dict[str, NDArray[Any]]:
        return {name: logits * np.float32(1.001) for name, logits in right(self, inputs).items()}

    monkeypatch.setattr(OrtSession, "run", wrong)
    row, other = measured(path, "ort-cpu", "openvino").rows
    assert row.status == "invalid"
    assert other.status == "valid"


def test_two_files_of_the_same_weights_are_compared(tmp_path: Path) -> None:
    one = foreign.write(foreign.mobile(), tmp_path / "one.onnx")
    other = foreign.write(foreign.mobile(), tmp_path / "other.onnx")
    run = benchmark([one, other], batch=1, **QUICK)
    assert [row.variant for row in run.rows] == ["one", "other"]
    another = foreign.write(foreign.nhwc(), tmp_path / "another.onnx")
    with pytest.raises(UsageError, match="different weights"):
        benchmark([one, another], batch=1, **QUICK)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backend", "torch,ort"], "torch runs the PyTorch network, and of .* only the ONNX"),
        (["--backend", "pt2"], "pt2 runs the PyTorch network"),
        (["--backend", "ort", "--accuracy", "digits"], "its accuracy cannot be measured"),
        (["--backend", "ort", "--weights", "digits"], "has its own weights; drop --weights"),
        (["--backend", "ort", "--input-size", "32x32"], "has a size already"),
        (["--backend", "ort", "--precision", "fp16"], "is fp32; drop --precision fp16"),
    ],
)
def test_what_needs_a_network_is_refused(more: list[str], message: str, tmp_path: Path) -> None:
    path = foreign.write(foreign.mobile(), tmp_path / "model.onnx")
    done = CliRunner().invoke(main, ["--artifact", str(path), *more])
    assert done.exit_code == 2
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(done.stderr.splitlines()[-1])


def test_an_open_size_is_measured_at_the_requested_one(tmp_path: Path) -> None:
    path = foreign.write(foreign.open_size(), tmp_path / "model.onnx")
    (row,) = benchmark(path, runtimes=["ort-cpu"], input_size=(24, 16), batch=2, **QUICK).rows
    assert row.status == "valid", row.reasons


def test_what_a_quantized_file_leaves_is_a_warning(tmp_path: Path) -> None:
    path = foreign.write(foreign.quantized(), tmp_path / "model.onnx")
    (row,) = measured(path, "ort-cpu").rows
    assert row.status == "valid"
    assert "int8 asked for" in row.warnings["precision-not-delivered"]
