"""Threads and streams as axes of a benchmark."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fakes.calm import QuietMeter, calm
from resnext.errors import UsageError
from resnext.machine.load import Counters, Load, Meter
from resnext.machine.threads import ThreadBudget
from resnext.network.config import VARIANTS
from resnext.network.layers import layers
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Delivered, DeliveredLayer
from resnext.testing import FakeSession
from resnext.verify import eager
from resnext.weights.spec import Weights, load_weights
from resnext_bench import opening
from resnext_bench.cases import Axes, candidates_of_weights, cases_at, supported_cases
from resnext_bench.cli.bench import main
from resnext_bench.plan import Case, Plan
from resnext_bench.result import Run, read_run
from resnext_bench.run import run_benchmark

ONE = candidates_of_weights(("fp32",), None, None)


def test_every_combination_of_batch_threads_and_streams_is_a_row() -> None:
    axes = Axes((1, 8), threads=(2, 4), streams=(1, 2))
    cases, notes = supported_cases(("ort-cpu", "openvino"), axes, ONE)
    assert len(set(cases)) == 2 * 2 * 2 * 2
    assert notes == []
    assert [str(case) for case in cases[:4]] == [
        "ort-cpu 2 threads batch 1",
        "openvino 2 threads batch 1",
        "ort-cpu 2 threads, 2 streams batch 1",
        "openvino 2 threads, 2 streams batch 1",
    ]


def test_a_single_number_is_not_in_the_name() -> None:
    assert str(Case("ort", 1, "fp32")) == "ort fp32 batch 1"
    assert str(Case("ort", 1, "fp32", 1, 2)) == "ort fp32 1 thread, 2 streams batch 1"


def test_what_cannot_have_as_many_requests_in_flight_is_left_out_by_name() -> None:
    axes = Axes((1,), threads=(1, 2), streams=(1, 2), options=SessionOptions("cpu"))
    cases, notes = supported_cases(("torch", "ort-cpu"), axes, ONE)
    assert [(case.backend, case.threads, case.streams) for case in cases] == [
        ("torch", 1, 1),
        ("ort-cpu", 1, 1),
        ("torch", 2, 1),
        ("ort-cpu", 2, 1),
        ("ort-cpu", 2, 2),
    ]
    assert notes == [
        "backend 'torch' runs one request at a time (PyTorch's settings belong to the whole"
        " process): 2 streams left out",
        "2 streams need 2 CPU threads, and there are 1: 2 streams left out",
    ]


def test_more_streams_than_threads_are_refused_if_nothing_else_was_requested() -> None:
    axes = Axes((1,), streams=(3,), options=SessionOptions("cpu", threads=2))
    with pytest.raises(UsageError, match="3 streams need 3 CPU threads, and there are 2") as told:
        cases_at([("openvino", "")], axes)
    assert told.value.hint == "use at most `streams` 2, or more `threads`"


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


class Fake(FakeSession):
    """The digits network at its right answers, which reports ``threads`` and has ``streams``."""

    def __init__(self, digits: Weights, options: SessionOptions, threads: int) -> None:
        known: dict[bytes, NDArray[Any]] = {}

        def logits(images: NDArray[Any]) -> NDArray[Any]:
            key = images.tobytes()
            if key not in known:
                known[key] = eager.reference_logits(digits, images).astype(np.float32)
            time.sleep(0.002)
            return known[key].copy()

        super().__init__(logits, (1, 8, 8), 10)
        self.threads, self.in_flight = threads, options.streams

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        return (self.run,) * self.in_flight

    def delivered(self) -> Delivered:
        names = [layer.name for layer in layers(VARIANTS["resnext11_8x4d_digits"])]
        made = tuple(DeliveredLayer(name, "Conv", "float32", "cpu", (name,)) for name in names)
        return Delivered("cpu", made, {"threads": str(self.threads)})


def bench(
    digits: Weights,
    monkeypatch: pytest.MonkeyPatch,
    *cases: Case,
    session_of: Callable[[Weights, SessionOptions, int], Fake] = Fake,
    extra: int = 0,
    threads: int | None = None,
    meter: type[Meter] = QuietMeter,
) -> Run:
    """A run of fake sessions; the last reports ``extra`` threads more than it was given."""
    opened = 0

    def open_fake(_subject: object, _name: str, *, options: SessionOptions) -> Fake:
        nonlocal opened
        opened += 1
        more = extra if opened == len(cases) else 0
        return session_of(digits, options, options.thread_count + more)

    monkeypatch.setattr(opening, "open_session", open_fake)
    calm(monkeypatch)
    monkeypatch.setattr("resnext_bench.measure.Meter", meter)
    options = SessionOptions(device="cpu", threads=threads)
    return run_benchmark(digits, Plan(cases, 0.05, 6, 0.0), options=options)


def test_the_budget_and_its_reason_are_recorded_and_shown(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    budget = ThreadBudget(3, "cgroup quota of 3.5 CPUs")
    for module in ("resnext_bench.run", "resnext.runtimes.registry"):
        monkeypatch.setattr(f"{module}.thread_budget", lambda: budget)
    run = bench(digits, monkeypatch, Case("torch", 7))
    assert (run.threads, run.thread_reason) == (3, budget.reason)
    assert [row.threads for row in run.rows] == [3]
    assert "threads 3: cgroup quota of 3.5 CPUs" in run.table()
    assert "threads 3: cgroup quota of 3.5 CPUs" in run.markdown()
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert read_run(tmp_path / "run.json") == run
    requested = bench(digits, monkeypatch, Case("torch", 7), threads=2)
    assert (requested.threads, requested.thread_reason) == (2, "requested")


def test_several_numbers_of_threads_are_in_the_rows_names_and_never_compared(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Case(name, 7, threads=count) for count in (1, 2) for name in ("torch", "ort-cpu")]
    run = bench(digits, monkeypatch, *cases)
    assert [row.status for row in run.rows] == ["valid"] * 4, [row.reasons for row in run.rows]
    assert run.threads is None
    assert [row.threads for row in run.rows] == [1, 1, 2, 2]
    firsts = [row.timings[0].speedup == (1.0, 1.0, 1.0) for row in run.rows]
    assert firsts == [True, False, True, False]
    assert "threads 1, 2: requested" in run.table()
    assert "ort-cpu 2 threads" in run.table()


def test_a_runtime_that_reports_more_threads_is_invalid_and_not_compared(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (Case("torch", 7), Case("ort-cpu", 7))
    first, second = bench(digits, monkeypatch, *cases, extra=1, threads=2).rows
    assert first.status == "valid", first.reasons
    assert second.status == "invalid"
    assert second.reasons == ("2 threads were requested, and the runtime uses 3; use `threads` 3",)
    assert (first.threads, second.threads) == (2, 3)
    assert second.timings[0].speedup is None


class Busy(Fake):
    """Keeps its thread busy, without Python's lock."""

    def apply(self, images: NDArray[Any]) -> NDArray[Any]:
        hashlib.sha256(bytes(2_000_000))
        return super().apply(images)


class MainThreadMeter(Meter):
    """Takes the main thread's CPU time for the wall's, so that a busy test machine changes nothing:
    the threads of one process share what it gets.
    """

    def read(self) -> Counters:
        return Counters(wall_s=time.thread_time(), own_s=time.process_time())

    def since(self, before: Counters) -> Load:
        after = self.read()
        used = (after.own_s - before.own_s) / (after.wall_s - before.wall_s)
        return Load(wall_s=1.0, processors=2, cores=2, own=used)


@pytest.mark.parametrize("burning", [0, 2])
def test_a_session_that_burns_processors_beside_its_thread_is_invalid(
    burning: int, digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def burn() -> None:
        while not ended.is_set():
            hashlib.sha256(bytes(2_000_000))

    threads = [threading.Thread(target=burn) for _ in range(burning)]
    for thread in threads:
        thread.start()
    try:
        case = Case("torch", 7)
        run = bench(digits, monkeypatch, case, session_of=Busy, threads=1, meter=MainThreadMeter)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    (row,) = run.rows
    assert row.status == ("invalid" if burning else "valid"), (row.reasons, row.loads)
    reason = "processors during the timed runs, more than its 1 thread"
    assert any(reason in each for each in row.reasons) == bool(burning)


def test_throughput_counts_all_requests_in_flight(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (Case("ort-cpu", 7), Case("ort-cpu", 7, streams=2))
    one, two = bench(digits, monkeypatch, *cases, threads=2).rows
    assert (one.status, two.status) == ("valid", "valid"), (one.reasons, two.reasons)
    for row, streams in ((one, 1), (two, 2)):
        stats = row.timings[0].stats
        assert row.streams == streams
        assert stats.images_per_s == pytest.approx(streams * 7 / (stats.median_ns / 1e9))
    assert two.timings[0].speedup == (1.0, 1.0, 1.0)  # the first of its kind
    assert two.timings[0].stats.count > one.timings[0].stats.count * 1.2


class OneWrongStream(Fake):
    """Its second stream swaps rows."""

    def streams(self) -> tuple[Callable[[Arrays], dict[str, NDArray[Any]]], ...]:
        def swapped(inputs: Arrays) -> dict[str, NDArray[Any]]:
            return {"logits": self.run(inputs)["logits"][::-1].copy()}

        return (self.run, swapped)


def test_a_stream_with_another_output_makes_the_row_invalid(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("ort-cpu", 7, streams=2)
    (row,) = bench(digits, monkeypatch, case, session_of=OneWrongStream, threads=2).rows
    assert row.status == "invalid"
    assert any("its rows are not independent: timed" in reason for reason in row.reasons)
    assert row.parity is not None
    assert row.parity.passed  # the first stream is right


def test_streams_beyond_the_threads_end_the_command_before_anything_is_exported() -> None:
    options = ["--backend", "openvino", "--weights", "digits", "--threads", "1", "--streams", "2"]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert "2 streams need 2 CPU threads, and there are 1; use at most --streams 1" in done.output
