"""A soak finds a leak, a slowdown and an output that changes, and none of them without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import resnext
from fakes.calm import calm
from fakes.simulated import Machine, SimulatedSession
from fakes.simulated_soak import MB, NOISES, latencies, leak_rate, memory, slowdown_rate
from resnext.artifact.specs import BatchRange
from resnext.errors import UsageError
from resnext.runtimes.session import Arrays, Session
from resnext.testing import FakeSession
from resnext.weights.spec import load_weights
from resnext_bench import Soak, benchmark, read_run
from resnext_bench.checks import changed_output, latency_growth, leak
from resnext_bench.checks.evidence import Evidence
from resnext_bench.cli.bench import main
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples, Subject
from resnext_bench.plan import Case
from resnext_bench.report import text
from resnext_bench.scenarios.growth import Growth
from resnext_bench.scenarios.scenario import Passes, Stage
from resnext_bench.scenarios.soak_record import SoakRecord

SECOND = 1e9


def stage(session: Session, batch: int = 2, **others: Any) -> Stage:
    (spec,) = session.inputs
    inputs = {spec.name: np.ones((batch, *(size or 1 for size in spec.shape[1:])), spec.dtype)}
    subject = Subject(session, inputs, session.bind(inputs))
    none: Any = None
    fields = {"deadline": Deadline(), **others}
    return Stage(Case("fake", batch), subject, Samples(), none, None, 0, **fields)


def simulated(
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    resident: Callable[[float], int],
    run_s: Callable[[float], float] = lambda _: 0.5,
) -> SoakRecord:
    """A soak of a session whose runs take ``run_s`` on a clock that only they move."""
    machine = Machine(0)
    monkeypatch.setattr("resnext.timing.clock.now_ns", machine.read)
    session = SimulatedSession(machine, lambda _: run_s(machine.now / SECOND) * SECOND)
    return Soak(minutes, host_bytes=lambda: resident(machine.now / SECOND))(stage(session))


def codes(record: SoakRecord) -> set[str]:
    none: Any = None
    evidence = Evidence(
        Samples(), (), None, none, None, "fp32", passes=Passes(records={"soak": record})
    )
    return {
        finding.code
        for check in (leak, latency_growth, changed_output)
        for finding in check.findings(evidence)
    }


@pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))
@pytest.mark.parametrize("minutes", [2, 5])
def test_a_leak_of_a_megabyte_a_minute_is_found_and_none_without_one(
    noise: Any, minutes: float
) -> None:
    quiet, leaking = (leak_rate(noise, minutes, rate, range(300)) for rate in (0.0, 1.0))
    assert quiet <= 0.05
    # Two minutes of a saw-tooth of 2 MB are too few for a leak of 2 MB.
    assert leaking >= (0.95 if minutes > 2 or noise.saw < 1 else 0.75)


@pytest.mark.parametrize(("by", "least", "most"), [(0.0, 0.0, 0.05), (0.5, 0.95, 1.0)])
def test_a_slowdown_is_found_and_a_drifting_machine_is_none(
    by: float, least: float, most: float
) -> None:
    assert least <= slowdown_rate(0.002, by, range(300)) <= most
    assert slowdown_rate(0.01, 0.0, range(300)) <= 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_soak_on_a_simulated_clock(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    def of(leak_mb: float) -> SoakRecord:
        rng = np.random.default_rng(seed)
        return simulated(monkeypatch, 3, memory(rng, NOISES["as measured"], 3, leak_mb))

    steady, leaking = of(0.0), of(1.0)
    assert codes(steady) == set()
    assert codes(leaking) == {"memory-leak"}
    assert leaking.host_growth is not None
    estimate, low, high = leaking.host_growth.per_minute
    assert low < 1 * MB < high
    assert estimate == pytest.approx(1 * MB, rel=0.3)
    assert (steady.batches, steady.lasted_s >= 180, steady.changed_s) == ((1, 2), True, None)
    assert len(steady.at_s) == len(steady.host_bytes) == len(steady.latency)


def test_one_large_step_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    record = simulated(monkeypatch, 5, lambda at_s: int((200 + 50 * (at_s > 150)) * MB))
    assert codes(record) == set()


def test_runs_that_become_slower_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    still = lambda _: int(200 * MB)  # noqa: E731  # a constant
    noise = latencies(np.random.default_rng(1), 4000, 0.0, 0.0, 0.01)
    steady = simulated(monkeypatch, 4, still, lambda at_s: 0.5 * np.exp(noise[int(at_s * 2)]))
    assert codes(steady) == set()
    slower = simulated(monkeypatch, 4, still, lambda at_s: 0.5 * (1 + at_s / 480))
    assert codes(slower) == {"latency-growth"}


class Corrupted(FakeSession):
    """From some call on, one logit of a batch of 2 is another.

    Args:
        since: number of the first such call.
        wrong: value of the logit.
    """

    def __init__(self, since: int, wrong: float) -> None:
        super().__init__(classes=4)
        self._since, self._wrong = since, wrong

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Right, then wrong."""
        self.calls += 1
        logits = np.ones((len(inputs["input"]), 4), np.float32)
        if self.calls >= self._since and len(logits) == 2:
            logits[1, 3] = self._wrong
        return {"logits": logits}


@pytest.mark.parametrize("wrong", [1.0001, float("nan"), float("inf")])
def test_an_output_that_changes_is_found(wrong: float) -> None:
    record = Soak(0.004)(stage(Corrupted(300, wrong)))
    assert codes(record) == {"changed-output"}
    assert record.changed_s is not None
    assert (record.output_error is None) == (not np.isfinite(wrong))
    assert SoakRecord.model_validate_json(record.model_dump_json()) == record
    assert codes(Soak(0.004)(stage(Corrupted(10**9, wrong)))) == set()


def test_runs_that_always_differ_a_little_set_the_limit() -> None:
    random = np.random.default_rng(0)
    noisy = FakeSession(lambda x: 1 + 1e-4 * random.random((len(x), 2)).astype(np.float32))
    record = Soak(0.004)(stage(noisy))
    assert record.output_error is not None
    assert 0 < record.output_error < record.output_limit
    assert codes(record) == set()


def test_batch_sizes_are_those_that_the_session_takes() -> None:
    fixed = FakeSession(batch_ranges=(BatchRange(min=8, opt=8, max=8),))
    assert Soak(0.001)(stage(fixed, 8)).batches == (8,)
    assert Soak(0.001)(stage(FakeSession(), 8)).batches == (1, 2, 4, 8)
    assert Soak(0.001)(stage(FakeSession(), 1)).batches == (1, 2)


def test_device_memory_is_watched_if_the_session_has_a_stream() -> None:
    session = FakeSession()
    session.cuda_stream = 7
    on_device = replace(Soak(0.01), device_bytes=lambda: 5)(stage(session))
    assert set(on_device.device_bytes) == {5}
    assert Soak(0.001, host_bytes=lambda: None)(stage(FakeSession())).host_bytes == ()


def test_a_deadline_ends_it_and_what_was_seen_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline()
    machine = Machine(0)
    monkeypatch.setattr("resnext.timing.clock.now_ns", machine.read)

    def interrupted_after_a_minute(_: int) -> float:
        deadline.interrupted = machine.now > 60 * SECOND
        return 0.5 * SECOND

    said: list[str] = []
    record = Soak(60, host_bytes=lambda: 1)(
        stage(
            SimulatedSession(machine, interrupted_after_a_minute),
            deadline=deadline,
            say=said.append,
        )
    )
    assert 50 <= record.lasted_s <= 70
    assert record.at_s
    assert any("left" in line for line in said)
    assert len(said) <= 62


def test_minutes_must_be_positive() -> None:
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="`soak` takes minutes above 0"):
            Soak(minutes)


def test_a_row_tells_of_its_soak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calm(monkeypatch)
    options: dict[str, Any] = {"duration": 0.01, "rounds": 2, "warmup": 0.0}
    run = benchmark("torch", weights="digits", scenarios=[Soak(0.01)], **options)
    assert run.rows[0].soak is not None
    assert run.rows[0].soak.batches == (1, 2)
    grown = Growth(per_minute=(1e6, 0.5e6, 2e6), minutes=2.0)
    soak = run.rows[0].soak.model_copy(update={"host_growth": grown, "latency_growth": None})
    shown = run.model_copy(update={"rows": (run.rows[0].model_copy(update={"soak": soak}),)})
    for report in (text(shown), shown.markdown()):
        assert "Soak" in report
        assert "runs at batch 1, 2; outputs as at the start" in report
        assert "host memory +1.00 MB a minute (+0.50 to +2.00), latency: too short" in report
    path = tmp_path / "run.json"
    path.write_text(run.model_dump_json())
    assert read_run(path).rows[0].soak == run.rows[0].soak


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "10x", "1e9", "s"])
def test_a_time_that_is_none_is_refused_in_one_line(value: str) -> None:
    result = CliRunner().invoke(main, ["--backend", "torch", "--soak", value])
    assert result.exit_code == 2
    assert "must be minutes above 0 and at most 10080, for example 10, 90s or 2h" in result.stderr


class Leaking(Session):
    """A real session that keeps a megabyte more every minute.

    Args:
        session: the real one.
        rate: bytes a minute.
    """

    def __init__(self, session: Session, rate: float) -> None:
        super().__init__(session.backend, session.batch_ranges)
        self.inputs, self.outputs = session.inputs, session.outputs
        self._session, self._rate, self._kept = session, rate, list[bytearray]()
        self._started, self._size = clock_s(), 0

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Keep what the time asks for, 16 KiB at a time, and run."""
        if (clock_s() - self._started) / 60 * self._rate >= self._size + (16 << 10):
            self._kept.append(bytearray(b"x" * (16 << 10)))
            self._size += 16 << 10
        return self._session.run(inputs)

    def _bind(self, inputs: Arrays) -> Any:
        return self._session.bind(inputs)

    def delivered(self) -> Any:
        """The real one's."""
        return self._session.delivered()


def clock_s() -> float:
    import time

    return time.monotonic()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("rate", "found"), [(1 * MB, {"memory-leak"}), (0.0, set())])
def test_a_real_leak_of_a_megabyte_a_minute_in_a_real_session(rate: float, found: set[str]) -> None:
    from resnext_export import ExportRequest, build_or_reuse

    artifact = build_or_reuse(ExportRequest(), load_weights("digits")).artifact
    with resnext.open_session(artifact, "ort-cpu") as session:
        record = Soak(3)(stage(Leaking(session, rate), 8))
    assert codes(record) - {"latency-growth"} == found, record.host_growth
