"""Rows beside the limit: which ceilings they use, when these are measured, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fakes.calm import QuietMeter, calm
from fakes.ceilings import ANSWER, environment, plant
from resnext.errors import SessionFailed
from resnext.machine.load import Load
from resnext.network.config import variant
from resnext.network.layers import macs
from resnext.runtimes.registry import SessionOptions
from resnext.testing import FakeSession
from resnext.verify import eager
from resnext.weights.spec import Weights, load_weights
from resnext_bench import opening, read_run
from resnext_bench.cli.bench import main
from resnext_bench.deadline import Deadline
from resnext_bench.limits import ceilings, needed
from resnext_bench.limits.ceilings import measured_ceilings
from resnext_bench.limits.distance import distance
from resnext_bench.limits.needed import needed_limits
from resnext_bench.plan import Case, Plan
from resnext_bench.result import Run
from resnext_bench.run import run_benchmark


class Busy(QuietMeter):
    """Reports that others use the processors."""

    def since(self, before: Any) -> Load:  # noqa: ARG002  # as the real one
        return Load(wall_s=1.0, processors=2, cores=2, own=0.0, others=1.9, waiting=0.5)


#: A product that took far too long.
SLOW = {"precision": "fp32", "instructions": "avx512", "operations_per_s": 1e7}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(needed, "Meter", QuietMeter)
    monkeypatch.setattr(ceilings, "Meter", QuietMeter)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


def run(digits: Weights, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Run:
    """A run of a fake session that computes the right logits."""

    def correct(images: Any) -> Any:
        return eager.reference_logits(digits, images).astype(np.float32)

    monkeypatch.setattr(
        opening, "open_session", lambda *_, **__: FakeSession(correct, (1, 8, 8), 10)
    )
    calm(monkeypatch)
    plan = Plan(
        (Case("torch", 7),), **{"duration_s": 0.05, "rounds": 4, "warmup_s": 0.0} | settings
    )
    return run_benchmark(digits, plan, options=SessionOptions(device="cpu"))


def test_the_share_is_the_floor_of_fused_blocks_over_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    known, config = measured_ceilings(environment(), "cpu", 2), variant("resnext50_32x4d")
    found = distance(config, "int8", 8, 321.0, known)
    assert found.ceiling == "int8 amx"
    assert found.compute_ns == pytest.approx(16 * macs(config) / 5e12 * 1e9)
    assert found.compute_ns <= found.blocks_ns <= found.layers_ns
    assert found.share == pytest.approx(found.blocks_ns / (8 / 321.0 * 1e9))
    assert distance(config, "bf16", 8, 321.0, known).ceiling == "fp32 avx512"


def test_a_row_shows_its_share_and_the_file_keeps_the_floors(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch)
    plant_for_this_machine(monkeypatch)
    found = run(digits, monkeypatch)
    (row,) = found.rows
    assert row.distance is not None
    assert 0 < row.distance.share < 1
    table = found.table()
    assert "of limit" in table
    assert f" {row.distance.share:.0%} " in table
    assert "beyond-the-limit" not in row.warnings
    (tmp_path / "run.json").write_text(found.model_dump_json())
    assert read_run(tmp_path / "run.json") == found


def plant_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure (with the planted child) and store."""
    from resnext.machine.environment import record_environment
    from resnext.machine.nvml import open_nvml

    with open_nvml() as nvml:
        measured_ceilings(record_environment(nvml), "cpu", 1)

    def never(*_: Any) -> None:
        raise AssertionError("measured although they are stored")

    monkeypatch.setattr(ceilings, "run_measuring", never)


def test_ceilings_of_a_disturbed_machine_are_a_warning_with_what_to_do(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that was measured too slow makes the row faster than the limit."""
    plant(monkeypatch, products=[SLOW])
    plant_for_this_machine(monkeypatch)
    found = run(digits, monkeypatch)
    (row,) = found.rows
    assert "limit" not in "; ".join(row.reasons)
    assert "measure them `again`" in row.warnings["beyond-the-limit"]
    assert row.distance is not None
    assert row.distance.share > 1.05


def test_a_short_run_measures_no_ceilings(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    child = plant(monkeypatch)
    found = run(digits, monkeypatch)
    assert child.calls == []
    assert found.rows[0].distance is None


PLAN = Plan((Case("torch", 1), Case("ort-cpu", 1), Case("ort-cpu", 1, threads=3)), duration_s=2.0)


def limits(plan: Plan = PLAN, max_seconds: float | None = None) -> tuple[Any, list[str]]:
    said: list[str] = []
    rows = [(case.backend, case.threads or 2) for case in plan.cases]
    timed_s = plan.duration_s * len(rows)
    deadline = Deadline(max_seconds)
    found = needed_limits(rows, timed_s, "cpu", environment(), deadline, said.append)
    return found, said


def test_a_long_run_measures_each_number_of_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    child = plant(monkeypatch)
    found, said = limits()
    assert child.calls == [("cpu", 2), ("cpu", 3)]
    assert said == ["measuring this machine's ceilings"] * 2
    assert found.of("cpu", 2).threads == 2
    assert found.of("cpu", 1) is None
    assert found.of("cuda:0 NVIDIA H200", 2) is None
    again, said = limits()
    assert (len(child.calls), said) == (2, [])
    assert again == found


def test_short_of_time_they_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    child = plant(monkeypatch)
    assert limits(max_seconds=100.0)[0].ceilings == {}
    assert limits(Plan(PLAN.cases, duration_s=1.0))[0].ceilings == {}
    assert child.calls == []


def test_on_a_busy_machine_they_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    child = plant(monkeypatch)
    monkeypatch.setattr(needed, "Meter", Busy)
    found, said = limits()
    assert (found.ceilings, child.calls) == ({}, [])
    assert said[0].startswith("the ceilings are not measured: other processes (1.9")


def test_disturbed_ceilings_are_measured_again_once_the_machine_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan((Case("torch", 1),), duration_s=5.0)
    child = plant(monkeypatch, products=[SLOW])
    monkeypatch.setattr(ceilings, "Meter", Busy)
    assert limits(plan)[0].of("cpu", 2).disturbed
    monkeypatch.setattr(needed, "Meter", Busy)
    found, _ = limits(plan)
    assert found.of("cpu", 2).disturbed  # better than none
    assert len(child.calls) == 1
    monkeypatch.setattr(ceilings, "Meter", QuietMeter)
    monkeypatch.setattr(needed, "Meter", QuietMeter)
    child = plant(monkeypatch)
    for _ in range(2):
        known = limits(plan)[0].of("cpu", 2)
        assert (known.disturbed, known.fastest("fp32").operations_per_s) == ((), 3e11)
    assert len(child.calls) == 1


def test_a_machine_whose_ceilings_cannot_be_measured_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise SessionFailed("planted")

    plant(monkeypatch)
    monkeypatch.setattr(ceilings, "run_measuring", fails)
    found, said = limits()
    assert found.ceilings == {}
    assert "planted" in said


# ---- the command


def call(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["limits", *arguments], prog_name="resnext-bench")


def test_the_command_shows_ceilings_and_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    child = plant(monkeypatch)
    done = call("--device", "cpu", "--batch", "8")
    assert done.exit_code == 0, done.output
    for part in ("amx", "copy 25 GB/s", "1.5 us", "floors of resnext50_32x4d", "compute"):
        assert part in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["int8", "amx", "5"] in lines
    (floor,) = (line for line in lines if line[:2] == ["int8", "8"])
    assert floor[2:4] == ["13.5", "(591)"]  # 8 x 8.46 G / 5 T
    assert child.calls == [("cpu", 1)]
    call("--device", "cpu")
    assert len(child.calls) == 1
    call("--device", "cpu", "--again")
    assert len(child.calls) == 2
    call("--device", "cpu", "--threads", "2")
    assert child.calls[2:] == [("cpu", 2)]


def test_the_command_writes_json_alone_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    done = call("--device", "cpu", "--json", "-", "--precision", "int8,bf16", "--batch", "1,8")
    facts = json.loads(done.stdout)
    assert facts["ceilings"]["products"] == ANSWER["products"]
    found = [(row["precision"], row["batch"], row["ceiling"]) for row in facts["floors"]]
    assert found == [
        ("int8", 1, "int8 amx"),
        ("int8", 8, "int8 amx"),
        ("bf16", 1, "fp32 avx512"),
        ("bf16", 8, "fp32 avx512"),
    ]
    for row in facts["floors"]:
        assert 0 < row["compute_s"] <= row["blocks_s"] <= row["layers_s"]


def test_a_damaged_file_is_measured_again_with_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = plant(monkeypatch)
    call("--device", "cpu")
    (path,) = (tmp_path / "cache").rglob("*.json")
    path.write_bytes(path.read_bytes()[:-9])
    done = call("--device", "cpu")
    assert done.exit_code == 0
    assert f"note: the stored ceilings are damaged: {path}" in done.stderr
    assert len(child.calls) == 2
    assert call("--device", "cpu").stderr == ""
