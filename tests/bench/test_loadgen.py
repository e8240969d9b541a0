"""LoadGen runs: their verdict and files, what ends them, and agreement with the load of this
toolkit.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fakes.calm import calm
from fakes.served import MS, Confused, Served, stage
from resnext.errors import (
    GateFailed,
    MissingRequirement,
    NeverReturned,
    SessionFailed,
    UnknownName,
    UsageError,
)
from resnext.machine.load import Meter
from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext.timing.requests import open_loop
from resnext_bench import Load, LoadGen, benchmark
from resnext_bench.checks import loadgen_invalid, wrong_under_load
from resnext_bench.checks.evidence import Evidence
from resnext_bench.cli.bench import main
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Samples
from resnext_bench.scenarios import loadgen, loadgen_sut
from resnext_bench.scenarios.load import Worker
from resnext_bench.scenarios.load_text import loadgen_line
from resnext_bench.scenarios.loadgen_record import LoadGenRecord, record_of
from resnext_bench.scenarios.loadgen_sut import System
from resnext_bench.scenarios.scenario import Passes, Stage, go_through

pytest.importorskip("mlperf_loadgen")
NONE: Any = None


def messages(record: LoadGenRecord) -> list[str]:
    evidence = Evidence(
        Samples(), (), None, NONE, None, "fp32", passes=Passes(records={"loadgen": record})
    )
    return [
        str(one)
        for check in (loadgen_invalid, wrong_under_load)
        for one in check.findings(evidence)
    ]


def command(*words: str) -> Result:
    return CliRunner().invoke(main, ["--backend=ort-cpu", "--weights=digits", *words])


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server", "offline"])
def test_every_scenario_gives_a_verdict(scenario: Any) -> None:
    more: dict[str, Any] = {"slo_ms": 500, "rate": 2000.0} if scenario == "server" else {}
    record = LoadGen(scenario, 0.1, **more)(stage(Served(lambda _: 0.0)))
    assert record.scenario == scenario
    assert record.version
    assert record.percentiles_ns["p99"] >= record.percentiles_ns["p50"] > 0
    assert record.samples_per_s is None or record.images_per_s == 2 * record.samples_per_s
    assert (record.target_per_s is not None) == (scenario == "server")
    assert "not an MLPerf result" in loadgen_line(record)
    assert record.result == "VALID" or record.recommendations


def test_a_fast_session_gets_enough_queries() -> None:
    at = stage(Served(lambda _: 0.0), timed_ns=MS // 10)
    assert LoadGen("single-stream", 0.2)(at).result == "VALID"


def test_log_files_are_kept_in_a_folder_of_the_row(tmp_path: Path) -> None:
    LoadGen("offline", 0.01, logs=tmp_path)(stage(Served(lambda _: 0.0)))
    summary, detail = (
        tmp_path / "fake-batch-2" / f"mlperf_log_{name}.txt" for name in ("summary", "detail")
    )
    assert "Result is :" in summary.read_text()
    assert detail.stat().st_size


def test_invalid_makes_a_row_invalid_in_loadgens_words() -> None:
    slow = Served(lambda _: 0.002)
    record = LoadGen("server", 0.3, slo_ms=1.1, rate=1000.0)(stage(slow))
    assert record.result == "INVALID"
    (message,) = messages(record)
    assert message.startswith("LoadGen server: INVALID: ")
    assert record.recommendations[0] in message


def test_a_wrong_output_in_the_run_is_found() -> None:
    session = Confused(lambda _: 0, 2)
    record = LoadGen("offline", 0.05)(stage(session, 2))
    assert any("wrong output in the LoadGen run" in one for one in messages(record))


def test_an_error_in_a_run_is_raised_and_does_not_end_the_process() -> None:
    def third(call: int) -> float:
        if call > 60:  # some are of the warm-up
            raise ValueError("no answer")
        return 0.001

    with pytest.raises(ValueError, match="no answer"):
        LoadGen("single-stream", 0.2)(stage(Served(third)))
    assert LoadGen("single-stream", 0.05)(stage(Served(lambda _: 0.0))).queries >= 64


def test_a_run_that_does_not_return_ends_loadgen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_bench.scenarios.load.PATIENCE_S", 0.3)
    began = time.perf_counter()
    with pytest.raises(NeverReturned, match="a run did not return within"):
        LoadGen("server", 0.3, slo_ms=50, rate=2000.0)(
            stage(Served(lambda call: 4.0 if call > 60 else 0.001))
        )
    assert time.perf_counter() - began < 4


def test_a_run_that_never_returns_fails_its_row_and_no_other_may_use_loadgen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnext_bench.scenarios.load.PATIENCE_S", 0.3)
    monkeypatch.setattr(loadgen_sut, "_stuck", threading.Event())
    release = threading.Event()

    def stuck(call: int) -> float:
        if call > 100:  # some are of the warm-up
            release.wait(20)
        return 0.001

    session = Served(stuck)
    row = stage(session)
    single = LoadGen("single-stream", 1.0)
    errors = go_through([single, Load("closed:1")], row).errors
    assert isinstance(row.samples.error, NeverReturned)  # which makes the row FAILED
    assert (list(errors), session.calls) == (["loadgen"], 101)
    with pytest.raises(SessionFailed, match="LoadGen still waits for a run of another row"):
        single(stage(Served(lambda _: 0.0)))
    release.set()
    for thread in threading.enumerate():
        if thread.name == "loadgen":
            thread.join(10)


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_time_that_is_up_ends_loadgen_at_once(scenario: Any) -> None:
    began = time.perf_counter()
    with pytest.raises(GateFailed, match="out of time"):
        LoadGen(scenario, 20.0)(stage(Served(lambda _: 0.001), deadline=Deadline(0.3)))
    assert time.perf_counter() - began < 4


def test_one_stream_is_answered_on_loadgens_own_thread() -> None:
    names = set[str]()

    class Named(Served):
        def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
            names.add(threading.current_thread().name)
            return super().run(inputs)

    LoadGen("single-stream", 0.05)(stage(Named(lambda _: 0.001)))
    assert names == {"MainThread", "loadgen"}  # that of the warm-up, and LoadGen's


def test_the_remedy_fits_a_run_that_ended_before_its_time() -> None:
    record = LoadGen("offline", 0.01)(stage(Served(lambda _: 0.0)))
    for words, remedy in (
        ("Decrease the expected latency so the loadgen pre-generates more queries.", "calm"),
        ("Reduce target QPS to improve latency.", "lower rate as `load`"),
        ("The test exited early, before enough queries were issued.", "longer `duration`"),
    ):
        early = record.model_copy(update={"result": "INVALID", "recommendations": (words,)})
        (message,) = messages(early)
        assert remedy in message.split(words)[1]


def test_time_that_is_up_ends_loadgen() -> None:
    with pytest.raises(GateFailed, match="out of time"):
        LoadGen("offline", 0.2)(stage(Served(lambda _: 0.001), deadline=Deadline(0.0)))


def test_a_summary_without_a_verdict_is_an_error() -> None:
    with pytest.raises(SessionFailed, match="no verdict"):
        record_of("nothing", "offline", "6.0", 1, 0, min_duration_s=1)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'server'"):
        LoadGen("serve")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a target latency"):
        LoadGen("server")
    with pytest.raises(UsageError, match="has no rate and no target latency"):
        LoadGen("offline", slo_ms=5)
    with pytest.raises(UsageError, match="must be above 0"):
        LoadGen("offline", duration=0)
    with pytest.raises(UsageError, match="one request in flight, not 2"):
        LoadGen("single-stream")(stage(Served(lambda _: 0.0, 2), 2))
    with pytest.raises(UsageError, match=r"would take 1\.839 hours at 0\.1/s"):
        LoadGen("server", slo_ms=50, rate=0.1)(stage(Served(lambda _: 0.0)))
    with pytest.raises(GateFailed, match="less than the fastest timed run"):
        LoadGen("server", slo_ms=0.5)(stage(Served(lambda _: 0.0)))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--load=fast"], 2, "unknown --load 'fast'; it must be closed:N"),
        (["--load=poisson"], 2, "give --slo, for example 20ms"),
        (["--slo=20ms"], 2, "--slo is for --load and --loadgen server"),
        (["--load=closed:1", "--slo=20"], 2, "with its unit: 20ms"),
        (["--load=closed:1", "--slo=0ms"], 2, "with its unit: 20ms"),
        (["--loadgen=single-stream", "--streams=1,2"], 2, "one request in flight, not 2"),
        (["--loadgen=server"], 2, "needs a target latency"),
        (["--loadgen-logs=x"], 2, "--loadgen-logs is for --loadgen"),
        (["--loadgen=offline", "--loadgen-logs=/proc/x"], 3, "cannot write /proc/x"),
    ],
)
def test_bad_options_are_one_line(words: list[str], code: int, message: str) -> None:
    result = command(*words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_loadgen_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    result = command("--loadgen=offline")
    assert result.exit_code == 3
    assert "pip install 'resnext-toolkit[loadgen]'" in result.stderr
    with pytest.raises(MissingRequirement):
        loadgen.require_loadgen()


def median_ratio(pairs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> float:
    """Ours over theirs, of interleaved runs: what disturbs the machine disturbs both."""
    return statistics.median(ours() / theirs() for _ in range(pairs))


def calibrated(seconds: float) -> FakeSession:
    """A session of a known service time, without the oversleeping of the system."""

    def spin(_: int) -> float:
        end = time.perf_counter() + seconds
        time.sleep(max(0.0, seconds - 0.0005))
        while time.perf_counter() < end:
            time.sleep(0)
        return 0.0

    return Served(spin)


def one_client_and_single_stream(at: Stage, pairs: int, seconds: float) -> float:
    return median_ratio(
        pairs,
        lambda: Load("closed:1", duration=seconds)(at).probes[0].p50_ns,
        lambda: LoadGen("single-stream", seconds)(at).percentiles_ns["p50"],
    )


def test_one_client_agrees_with_single_stream() -> None:
    """Within 5 % here, in short runs on any machine; within 2 % in the exhaustive test."""
    assert one_client_and_single_stream(stage(calibrated(0.004)), 3, 0.2) == pytest.approx(
        1, rel=0.05
    )


def throughput(at: Stage, pairs: int, seconds: float) -> float:
    return median_ratio(
        pairs,
        lambda: Load("closed:4", duration=seconds)(at).probes[0].answered_per_s,
        lambda: LoadGen("offline", seconds)(at).samples_per_s or 0.0,
    )


def replayed(at: Stage, rate: float, seconds: float) -> dict[str, float]:
    """Ours over LoadGen's server, with LoadGen's own arrivals."""
    system: list[System] = []
    create = System

    def remembered(*args: Any) -> System:
        system.append(create(*args))
        return system[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loadgen, "System", remembered)
        theirs = LoadGen("server", seconds, slo_ms=1000, rate=rate)(at)
    issued = system[0].issued_ns
    worker = Worker(at.subject.session.run, at.subject.inputs, "logits")
    ours = open_loop([worker], [ns - issued[0] for ns in issued], 10_000)
    times = sorted(ours.latencies_ns)
    assert len(times) == theirs.queries
    ratios = {
        f"p{percent}": times[percent * len(times) // 100]  # the one that LoadGen takes
        / theirs.percentiles_ns[f"p{percent}"]
        for percent in (50, 90, 99)
    }
    assert theirs.samples_per_s is not None
    return ratios | {"rate": ours.per_s / theirs.samples_per_s}


@pytest.mark.exhaustive
def test_a_calibrated_session_agrees_with_loadgen_within_two_percent() -> None:
    # Asleep, so that other work on a test machine delays a run little; 60 % busy.
    at = stage(Served(lambda _: 0.02), timed_ns=20 * MS)
    assert one_client_and_single_stream(at, 5, 2.0) == pytest.approx(1, rel=0.02)
    runs = [replayed(at, 30, 8.0) for _ in range(3)]
    for name in ("p50", "p90", "p99", "rate"):
        assert statistics.median(run[name] for run in runs) == pytest.approx(1, rel=0.02), name
    assert throughput(at, 3, 2.0) == pytest.approx(1, rel=0.02)


@pytest.mark.exhaustive
def test_onnx_runtime_agrees_with_loadgen_within_five_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm(monkeypatch)
    ratios: dict[str, float] = {}
    disturbed: list[str] = []

    class Both:
        """Both, in turns, on the row's own session."""

        field = "load"

        def __call__(self, stage: Stage) -> None:
            meter = Meter()
            before = meter.read()
            ratios["p50"] = one_client_and_single_stream(stage, 9, 1.0)
            ratios["images/s"] = throughput(stage, 9, 1.0)
            disturbed.extend(meter.since(before).disturbances(stage.subject.threads))

    benchmark("ort-cpu", weights="digits", batch=64, scenarios=[Both()], duration=0.5)
    if disturbed:  # the scheduler then stops a run in ours, and between two in LoadGen
        pytest.skip(f"{', '.join(disturbed)}: {ratios}")
    assert ratios == pytest.approx({"p50": 1, "images/s": 1}, rel=0.05)
