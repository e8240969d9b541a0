"""Under load: latency from the planned arrival, drops, wrong outputs, and the rate that meets an
SLO.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fakes.calm import calm
from fakes.served import MS, NONE, Confused, Served, stage
from resnext.errors import GateFailed, NeverReturned, UsageError
from resnext.machine.load import Meter
from resnext.runtimes.session import Arrays
from resnext.timing.requests import Answer, Answers, closed_loop, open_loop
from resnext_bench import Load, benchmark
from resnext_bench.checks import cannot_serve, late_arrivals, slo, wrong_under_load
from resnext_bench.checks.evidence import Evidence
from resnext_bench.checks.registry import CHECKS
from resnext_bench.cli.bench import main
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples
from resnext_bench.report import text
from resnext_bench.scenarios.load import Worker, poisson_arrivals
from resnext_bench.scenarios.load_record import (
    LoadRecord,
    Probe,
    clear_miss,
    more_requests,
    probe_of,
    slo_verdict,
)
from resnext_bench.scenarios.load_search import CLOSE, search
from resnext_bench.scenarios.load_text import load_lines, verdict_line
from resnext_bench.scenarios.scenario import Passes, go_through


def found(record: LoadRecord) -> dict[str, str]:
    evidence = Evidence(
        Samples(), (), None, NONE, None, "fp32", passes=Passes(records={"load": record})
    )
    return {
        finding.code: str(finding)
        for check in (cannot_serve, late_arrivals, slo, wrong_under_load)
        for finding in check.findings(evidence)
    }


def answered(latencies: list[int], workers: int = 1, **others: Any) -> Answers:
    """Answers to requests that arrive a millisecond apart."""
    answers = [Answer(i * MS, i * MS, i * MS + ns) for i, ns in enumerate(latencies)]
    return Answers(workers, answers, began=0, ended=len(latencies) * MS, **others)


def test_a_stall_is_in_the_latency_of_every_request_behind_it() -> None:
    stall = 0.2
    session = Served(lambda call: stall if call == 30 else 0.001)
    longest: list[float] = []

    def timed() -> None:
        before = time.perf_counter()
        session.run({"input": np.zeros((1, 4), np.float32)})
        longest.append(time.perf_counter() - before)

    answers = open_loop([timed], [i * 5 * MS for i in range(80)], 1000)
    hit = [ns for ns in answers.latencies_ns if ns > 50 * MS]
    # 40 arrived during the stall, a quarter of them at its very end; from start to end one was slow
    assert len(hit) >= 25
    assert sum(one > 0.05 for one in longest) < len(hit) / 4
    assert max(hit) >= stall * 1e9
    assert answers.dropped == 0


def test_latencies_are_those_of_a_queue() -> None:
    """By Lindley's recursion, from the arrivals and the workers' own times."""
    session = Served(lambda _: 0.002)
    call = lambda: session.run({"input": np.zeros((1, 4), np.float32)})  # noqa: E731
    answers = open_loop([call], poisson_arrivals(300, 120, (0, 0)), 1000)
    free = 0
    for one in answers.answers:
        expected = max(one.arrived, free)
        assert one.started >= expected
        free = one.done
    queued = [one.started - max(one.arrived, before) for one, before in _with_previous(answers)]
    assert statistics.median(queued) < MS  # of handing over, not of anything missed
    assert answers.per_s == pytest.approx(300, rel=0.35)
    assert 0.4 < answers.busy <= 1.0


def _with_previous(answers: Answers) -> list[tuple[Answer, int]]:
    ends = [0, *(one.done for one in answers.answers)]
    return list(zip(answers.answers, ends, strict=False))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_waiting_for_a_known_service_time_is_that_of_the_formula(rho: float) -> None:
    """M/D/1: a mean wait of rho / (2 (1 - rho)) service times."""
    service, free, waits = 5 * MS, 0, []
    for arrived in poisson_arrivals(rho / 0.005, 200_000, (0, 0)):
        started = max(arrived, free)
        free = started + service
        waits.append(started - arrived)
    assert statistics.fmean(waits) / service == pytest.approx(rho / (2 * (1 - rho)), rel=0.04)


def test_arrivals_follow_a_seeded_poisson_process() -> None:
    arrivals = poisson_arrivals(200, 20_000, (7, 1))
    gaps = np.diff([0, *arrivals]) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.03)  # of an exponential law
    assert arrivals == poisson_arrivals(200, 20_000, (7, 1))
    assert arrivals != poisson_arrivals(200, 20_000, (7, 2))


def test_clients_beyond_the_workers_wait() -> None:
    answers = closed_loop([lambda: time.sleep(0.002)] * 2, 6, 0, 200)
    assert len(answers.answers) >= 200
    # Little's law, however long a call takes: requests in flight = rate x latency
    in_flight = sum(answers.latencies_ns) / (answers.ended - answers.began)
    assert in_flight == pytest.approx(6, rel=0.06)
    alone = closed_loop([lambda: time.sleep(0.002)] * 4, 1, 0, 11)  # fewer clients than workers
    assert len(alone.answers) == 11


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_under_load_ends_it(workers: int) -> None:
    calls = iter(range(1000))

    def broken() -> None:
        if next(calls) == 3:
            raise ValueError("no answer")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no answer"):
        open_loop([broken] * workers, [i * MS for i in range(10_000)], 1000)
    calls = iter(range(1000))
    with pytest.raises(ValueError, match="no answer"):
        closed_loop([broken] * workers, 5, 1e12, 10)
    assert threading.active_count() == before


def test_a_rate_that_cannot_be_served_ends_early_and_says_what_can() -> None:
    record = Load("poisson:1000", duration=3)(stage(Served(lambda _: 0.005)))
    (probe,) = record.probes
    assert probe.dropped
    assert probe.requests < 500  # of 3000: the rest was not released
    assert probe.serves_per_s is not None
    assert probe.serves_per_s < 201
    message = found(record)["cannot-serve"]
    assert message.startswith("cannot serve 1000/s: it answers at most ")
    assert "lower rate as `load`" in message


def test_a_search_does_not_go_on_with_a_rate_that_clearly_misses() -> None:
    slow = [lambda: time.sleep(0.004)]
    arrivals = [i * 5 * MS for i in range(700)]
    answers = open_loop(slow, arrivals, 1000, most_over=(MS, clear_miss(700)))
    assert 15 <= len(answers.answers) <= 17
    assert not answers.gave_up  # the rate could be served
    over = sum(ns > MS for ns in answers.latencies_ns)
    assert slo_verdict(over, len(answers.answers)) == "missed"
    assert len(open_loop(slow, arrivals[:40], 1000).answers) == 40


@pytest.mark.parametrize("requests", [662, 1000, 20_000])
def test_a_clear_miss_is_the_fewest_that_are_one(requests: int) -> None:
    assert slo_verdict(clear_miss(requests), requests) == "missed"
    assert slo_verdict(clear_miss(requests) - 1, requests) != "missed"


def test_the_queue_has_room_for_a_second_of_answers_not_of_arrivals() -> None:
    record = Load("poisson:20000", duration=1)(stage(Served(lambda _: 0.02), timed_ns=20 * MS))
    (probe,) = record.probes
    assert probe.waiting <= 64
    assert probe.requests < 200  # of 20000
    message = found(record)["cannot-serve"]
    assert message.startswith("cannot serve 20000/s: it answers at most ")
    assert "e+" not in message + load_lines(record)[0]


def test_a_slow_session_that_is_swamped_at_once_still_says_what_it_answers() -> None:
    """Its queue is full long before the first answer."""
    session = Served(lambda call: 0.3 if call > 2 else 0.0)
    record = Load("poisson:50000", duration=0.1)(stage(session, timed_ns=300 * MS))
    (probe,) = record.probes
    assert 1 <= probe.requests < 11
    assert probe.serves_per_s is not None
    assert 0 < probe.serves_per_s <= 1 / 0.3


def test_a_queue_that_grows_without_a_drop_cannot_be_served() -> None:
    record = Load("poisson:240", duration=0.8)(stage(Served(lambda _: 0.006)))
    (probe,) = record.probes
    assert not probe.dropped
    assert probe.waiting > 10
    assert "cannot-serve" in found(record)
    calm_one = LoadRecord(
        load="poisson:9", probes=(probe_of(answered([MS] * 20), 1, offered_per_s=9),)
    )
    assert found(calm_one) == {}


def test_a_rate_above_the_capacity_is_not_valid_however_short_the_load() -> None:
    """A second of it: the queue has hardly grown, and the workers waited at its beginning."""
    answers, free = Answers(1, ended=1000 * MS), 120 * MS
    for index in range(42):
        arrived, service = index * 18 * MS, 20_500_000 + index % 3 * MS // 10
        started = max(arrived, free)
        free = started + service
        answers.answers.append(Answer(arrived, started, free))
    assert answers.busy < 0.9
    probe = probe_of(answers, 1, offered_per_s=55)
    message = found(LoadRecord(load="poisson:55", probes=(probe,)))["cannot-serve"]
    assert message.startswith("cannot serve 55/s: it answers at most 48.54/s")
    assert probe_of(answers, 1, offered_per_s=48).serves_per_s is None
    # A single stall says little about what it can answer.
    stalled = answered([5 * MS] * 10 + [2000 * MS])
    assert probe_of(stalled, 1, offered_per_s=9).serves_per_s is None


def test_drops_make_a_row_invalid() -> None:
    probe = probe_of(answered([MS // 2] * 700, dropped=3), 1, offered_per_s=9, slo_ns=MS)
    codes = found(LoadRecord(load="poisson:9", slo_ns=MS, probes=(probe,)))
    assert set(codes) == {"cannot-serve"}
    assert "3 requests at 9/s were dropped" in codes["cannot-serve"]
    assert probe.verdict == "missed"


def test_late_arrivals_are_a_finding() -> None:
    on_time, late = (
        probe_of(answered([10 * MS] * 20, late_ns=[ns] * 20), 1, offered_per_s=9)
        for ns in (MS // 2, 2 * MS)
    )
    assert found(LoadRecord(load="poisson:9", probes=(on_time,))) == {}
    message = found(LoadRecord(load="poisson:9", probes=(late,)))["late-arrivals"]
    assert "released 2 ms late" in message


def test_the_thread_of_arrivals_records_its_lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    def oversleeps(at: int, failed: threading.Event, _: Any) -> bool:
        time.sleep(max(0.0, (at - time.perf_counter_ns()) / 1e9) + 0.003)
        return not failed.is_set()

    monkeypatch.setattr("resnext.timing.requests._wait_until", oversleeps)
    answers = open_loop([lambda: None], [i * 8 * MS for i in range(12)], 10)
    assert min(answers.late_ns) >= 3 * MS
    assert min(answers.latencies_ns) >= 3 * MS  # from the planned arrival


def test_one_wrong_answer_among_hundreds_is_found() -> None:
    class Once(Served):
        """Is wrong in one run."""

        def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
            right = super().run(inputs)["logits"]
            return {"logits": right + (self.calls == 20)}

    record = Load("closed:1", duration=0.2)(stage(Once(lambda _: 0.0005)))
    assert record.probes[0].requests > 100
    assert "differs from that of the same run alone" in found(record)["wrong-under-load"]


def test_answers_of_another_request_are_found() -> None:
    """All workers with the same input would hide it."""
    record = Load("closed:2", duration=0.1)(stage(Confused(lambda _: 0, 2), 2))
    assert "differs from that of the same run alone" in found(record)["wrong-under-load"]
    record = Load("closed:2", duration=0.05)(stage(Served(lambda _: 0.001, 2), 2))
    assert found(record) == {}


def test_outputs_are_compared_with_the_timed_ones_in_a_copy() -> None:
    class Reused(Served):
        """Hands out the same buffer again and again, which goes wrong after some runs."""

        buffer = np.zeros((2, 2), np.float32)

        def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
            right = super().run(inputs)["logits"]
            self.buffer[:] = right if self.calls < self.good else right + 1
            return {"logits": self.buffer}

        good = 6

    load = Load("closed:1", duration=0.01)
    assert "wrong-under-load" in found(load(stage(Reused(lambda _: 0.001))))
    session = Served(lambda _: 0.001)
    row = stage(session)
    row.samples.output = session.run(dict(row.subject.inputs))["logits"]
    assert found(load(row)) == {}
    row.samples.output = row.samples.output + 1  # it is wrong since the timed runs
    assert "wrong-under-load" in found(load(row))


def test_an_slo_is_judged_by_the_bound_of_its_percentile() -> None:
    assert [slo_verdict(over, 662) for over in (0, 1, 13, 14, 15)] == [
        "met",
        "cannot tell",
        "cannot tell",
        "missed",
        "missed",
    ]
    assert slo_verdict(0, 661) == "cannot tell"
    assert slo_verdict(1, 838) == "met"
    # Never both, and in a hundred trials at exactly 1 % hardly ever "met"
    random = np.random.default_rng(0)
    verdicts = [slo_verdict(int(random.binomial(2000, 0.01)), 2000) for _ in range(400)]
    assert verdicts.count("met") <= 12
    assert verdicts.count("missed") <= 12


def test_the_number_of_missing_requests_is_told() -> None:
    probe = probe_of(answered([MS // 2] * 100), 1, offered_per_s=9, slo_ns=MS)
    record = LoadRecord(load="poisson:9", slo_ns=MS, probes=(probe,))
    assert verdict_line(record) == (
        "1 ms at p99: CANNOT TELL, 0 of 100 requests were above it; about 562 more requests would"
        " tell"
    )
    assert "CANNOT TELL" in found(record)["slo-not-met"]
    assert more_requests(1, 662) is not None
    assert more_requests(10, 662) is None


def fake_probe(met: Callable[[float, int], bool]) -> Callable[[float, int], Probe]:
    def probe(rate: float, index: int) -> Probe:
        slow = 0 if met(rate, index) else 100
        latencies = [2 * MS] * slow + [MS // 2] * (662 - slow)
        return probe_of(answered(latencies), 1, offered_per_s=rate, slo_ns=MS)

    return probe


@pytest.mark.parametrize("limit", [40.0, 300.0, 655.0, 1900.0])
def test_the_search_ends_within_two_percent_and_confirms(limit: float) -> None:
    record = search(fake_probe(lambda rate, _: rate <= limit), 500.0, MS)
    assert record.largest_per_s is not None
    assert record.missed_per_s is not None
    assert limit / CLOSE <= record.largest_per_s <= limit <= record.missed_per_s
    best = [one for one in record.probes if one.offered_per_s == record.largest_per_s]
    assert len(best) == 2
    assert len(record.probes) <= 14
    assert load_lines(record)[0].startswith(
        f"largest rate that meets 1 ms at p99: {record.largest_per_s:.4g}/s"
    )


def test_one_lucky_probe_does_not_decide() -> None:
    lucky: set[float] = set()

    def met(rate: float, _: int) -> bool:
        if 300 < rate <= 330 and rate not in lucky:
            lucky.add(rate)
            return True
        return rate <= 300

    record = search(fake_probe(met), 500.0, MS)
    assert lucky
    assert record.largest_per_s is not None
    assert record.largest_per_s <= 300


def test_a_search_that_does_not_settle_says_the_interval() -> None:
    record = search(fake_probe(lambda rate, index: rate <= (100 if index % 5 else 900)), 500.0, MS)
    assert record.largest_per_s is not None
    assert record.missed_per_s is not None
    assert f"; {record.missed_per_s:.4g}/s does not" in verdict_line(record)


def test_no_rate_meets_it_and_time_is_up() -> None:
    record = search(fake_probe(lambda *_: False), 500.0, MS)
    assert record.largest_per_s is None
    assert "no rate from" in found(record)["slo-not-met"]
    left = iter([False] * 3 + [True])
    record = search(fake_probe(lambda rate, _: rate <= 400), 500.0, MS, lambda: next(left))
    assert record.cut == "time was up"
    assert record.largest_per_s is None
    message = found(record)["slo-not-met"]
    assert "(ended early, time was up); give more time, " in message
    assert ": " not in message  # the first line of a report ends there


def test_a_rate_that_was_cut_short_is_not_one_that_missed() -> None:
    def probe(rate: float, index: int) -> Probe | None:
        return None if index == 2 else fake_probe(lambda *_: True)(rate, index)

    record = search(probe, 500.0, MS)
    assert [one.verdict for one in record.probes] == ["met", "met"]
    assert (record.largest_per_s, record.missed_per_s) == (None, None)
    assert verdict_line(record) == (
        "437.5/s met 1 ms at p99 once, and was not confirmed (ended early, time was up)"
    )


@pytest.mark.parametrize("answers", [0, 700])
def test_a_search_keeps_what_it_has_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    deadline, loads = Deadline(), 0

    def loop(*_: Any) -> Answers:
        nonlocal loads
        loads += 1
        deadline.interrupted = loads == 2
        return answered([MS // 2] * (answers if loads == 2 else 700))

    monkeypatch.setattr("resnext_bench.scenarios.load.open_loop", loop)
    row = stage(Served(lambda _: 0.0), deadline=deadline)
    record = Load("poisson", slo_ms=1, duration=0.1)(row)
    assert record.cut == "interrupted"
    assert [one.verdict for one in record.probes] == ["met"]


def test_a_search_on_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_bench.scenarios.load_search._MOST_PROBES", 1)
    lines: list[str] = []
    session = Served(lambda _: 0.0)
    record = Load("poisson", slo_ms=200, duration=0.1)(stage(session, say=lines.append))
    assert record.cut == "1 rates were tried"
    assert record.probes[0].requests >= 662
    assert lines == ["trying 700/s on fake batch 2, at most 1 s"]


def test_an_slo_under_the_fastest_answer_is_refused_before_any_load() -> None:
    session = Served(lambda _: 0.0)
    with pytest.raises(
        GateFailed, match=r"an SLO of 0\.5 ms is less than the fastest timed run, 1 ms"
    ):
        Load("poisson:10", slo_ms=0.5)(stage(session))
    assert session.calls == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("closed:0", "must have 1 to 10000 clients"),
        ("poisson:0", "must have a rate above 0"),
        ("poisson:nan", "it must be closed:N"),
        ("poisson:-1", "it must be closed:N"),
        ("open:3", "it must be closed:N"),
        ("", "it must be closed:N"),
        ("poisson", "searches the largest rate"),
    ],
)
def test_other_loads_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Load(spec)


def test_values_out_of_range_are_refused() -> None:
    for bad in ({"slo_ms": 0.0}, {"slo_ms": math.nan}, {"duration": 0.0}):
        with pytest.raises(UsageError, match="must be above 0"):
            Load("closed:1", **bad)


def test_time_that_is_up_ends_a_load() -> None:
    session = Served(lambda _: 0.001)
    with pytest.raises(GateFailed, match="out of time"):
        Load("closed:1")(stage(session, deadline=Deadline(0.0)))


def test_time_that_is_up_ends_a_wait_for_the_next_arrival() -> None:
    began = time.perf_counter()
    over = lambda: time.perf_counter() - began > 0.1  # noqa: E731
    answers = open_loop([lambda: None], [0, 5000 * MS], 10, over)
    assert time.perf_counter() - began < 2
    assert (len(answers.answers), answers.stopped) == (1, True)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("poisson:0.000000001", {}, "11 requests, .* would take 3055556 hours at 1e-09/s"),
        ("poisson:0.1", {"slo_ms": 5.0}, "662 requests, .* would take 1.839 hours at 0.1/s"),
        ("poisson:1000000", {"duration": 600.0}, "are 600000000 requests; a load has at most"),
    ],
)
def test_a_load_without_an_end_is_refused(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Load(spec, **options)
    Load("poisson:0.002", duration=7200)  # as requested


def test_a_session_too_slow_for_an_slo_is_refused() -> None:
    at = stage(Served(lambda _: 0.0), timed_ns=10_000 * MS)
    for spec in ("poisson", "closed:1"):
        with pytest.raises(UsageError, match=r"1\.839 hours at 0\.1/s; give a smaller `batch`"):
            Load(spec, slo_ms=20_000)(at)


def test_a_load_that_was_interrupted_says_so_and_how_long_it_takes() -> None:
    deadline, lines = Deadline(), list[str]()

    def until(call: int) -> float:
        deadline.interrupted = call > 100  # some are of the warm-up
        return 0.001

    for spec in ("closed:1", "poisson:200"):
        deadline.interrupted = False
        row = stage(Served(until), deadline=deadline, say=lines.append)
        record = Load(spec, duration=60)(row)
        assert load_lines(record)[0].endswith(", ended early: interrupted")
    assert lines == [
        "load of 1 client on fake batch 2, about 60 s",
        "load of 200/s on fake batch 2, about 60 s",
    ]


def test_a_run_that_never_returns_ends_the_load_and_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnext_bench.scenarios.load.PATIENCE_S", 0.3)
    monkeypatch.setattr("resnext_bench.scenarios.load.SLOWER", 1)
    forever = threading.Event()

    def stuck(call: int) -> float:
        if call > 100:  # some are of the warm-up
            forever.wait(20)
        return 0.001

    for spec in ("closed:1", "poisson:500"):
        session = Served(stuck)
        row = stage(session)
        passes = go_through([Load(spec, duration=1), Load("closed:1")], row)
        assert str(passes.errors["load"]) == "a run did not return within 0.3 s"
        assert row.samples.error is passes.errors["load"]
        assert isinstance(row.samples.error, NeverReturned)
        assert session.calls == 101  # and no more
    forever.set()


def test_an_interrupt_ends_clients_that_are_fewer_than_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    monkeypatch.setattr("resnext.timing.requests.Thread.join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        closed_loop([lambda: time.sleep(0.001)] * 4, 1, 60e9, 11)
    assert set(threading.enumerate()) <= before


def test_wrong_outputs_are_never_within_an_slo() -> None:
    right, wrong = (
        probe_of(answered([MS // 2] * 700), 1, offered_per_s=9, slo_ns=MS, wrong=words)
        for words in ("", "an output is not finite")
    )
    assert (right.verdict, wrong.verdict) == ("met", "missed")
    worker = Worker(lambda _: {"logits": np.full(2, np.nan)}, {}, "logits", np.ones(2))
    worker()
    assert worker.wrong() == "an output is not finite"
    record = LoadRecord(load="poisson:9", slo_ns=MS, probes=(wrong,))
    assert next(iter(CHECKS)) == "wrong-under-load"
    assert "wrong outputs" in load_lines(record)[0]


def test_of_many_latencies_evenly_spaced_ones_are_stored() -> None:
    probe = probe_of(answered([MS + i for i in range(25_000)]), 1, offered_per_s=9)
    assert probe.requests == 25_000
    assert probe.latency_ns == tuple(MS + i for i in range(0, 25_000, 3))
    assert probe.p99_ns is not None
    assert probe.p99_ns > MS + 24_750  # of all


def test_a_row_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    monkeypatch.setattr("resnext_bench.scenarios.load.Meter", Meter)
    monkeypatch.setattr("resnext_bench.checks.late_arrivals._ALWAYS_NS", 10**12)
    run = benchmark(
        "torch",
        weights="digits",
        scenarios=[Load("poisson:50", duration=0.3)],
        duration=0.01,
        rounds=2,
        warmup=0.0,
    )
    (row,) = run.rows
    assert row.load is not None
    assert row.load.probes[0].offered_per_s == 50
    assert row.status == "valid", row.reasons
    assert "50/s: " in run.table()
    assert "## Load" in run.markdown()


@pytest.mark.parametrize("option", ["--load=closed:2", "--loadgen=offline"])
def test_cold_caches_are_refused(option: str) -> None:
    done = CliRunner().invoke(main, ["--backend", "torch", "--cache", "cold", option])
    assert done.exit_code == 2
    assert "--load and --loadgen keep the caches hot" in done.stderr


def test_the_first_line_says_why_a_load_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calm(monkeypatch)
    load = Load("poisson:50", slo_ms=1e-3, duration=0.3)
    run = benchmark(
        "torch", weights="digits", scenarios=[load], duration=0.01, rounds=2, warmup=0.0
    )
    first = text(run).splitlines()[0]
    assert "load: an SLO of 0.001 ms is less than the fastest timed run" in first
