"""A benchmark that runs out of time, or is asked to stop, reports what it has and says what is
missing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fakes.calm import calm
from resnext.machine.nvml import GpuState
from resnext.runtimes.pytorch import door
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Session
from resnext.testing import FakeSession
from resnext.timing.paired import ratio_by_round
from resnext.verify.labeled import Labeled
from resnext.weights.spec import Weights, load_weights
from resnext_bench import opening
from resnext_bench.cli import bench as cli
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Subject, measure
from resnext_bench.plan import Case, Plan
from resnext_bench.report import markdown, rounds_done
from resnext_bench.result import Run, read_run
from resnext_bench.run import run_benchmark

OUT_OF_TIME = "not measured: out of time; give a longer `max_seconds`"
CASES = tuple(Case(name, 1) for name in "abc")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    calm(monkeypatch)  # a busy test machine proves nothing here


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.mark.parametrize(
    ("max_seconds", "gone_s", "opening_over", "over"),
    [
        (10, 4.9, False, False),
        (10, 5.0, True, False),
        (10, 9.9, True, False),
        (10, 10.0, True, True),
        (None, 1e6, False, False),
    ],
)
def test_half_of_the_time_is_for_opening_and_the_rest_for_measuring(
    monkeypatch: pytest.MonkeyPatch,
    max_seconds: float | None,
    gone_s: float,
    opening_over: bool,
    over: bool,
) -> None:
    now = 100.0
    monkeypatch.setattr("resnext_bench.deadline.time", SimpleNamespace(monotonic=lambda: now))
    deadline = Deadline(max_seconds)
    now += gone_s
    assert (deadline.opening_over(), deadline.over()) == (opening_over, over)


class After(Deadline):
    """Over once measuring was asked about ``steps`` times: warm-ups and visits."""

    def __init__(self, steps: int, opened: Callable[[int], bool] = lambda _: True) -> None:
        super().__init__()
        self._left = steps
        self._asked = 0
        self._opened = opened

    def opening_over(self) -> bool:
        self._asked += 1
        return not self._opened(self._asked)

    def over(self) -> bool:
        self._left -= 1
        return self._left < 0


def bound_subject(session: FakeSession) -> Subject:
    inputs = {"input": np.zeros((1, 1), np.float32)}
    return Subject(session, inputs, session.bind(inputs))


def measured(
    steps: int, min_samples: int = 60, rounds: int = 5
) -> tuple[dict[str, int], dict[str, str]]:
    """Rounds and errors by case of three cases that do nothing, of which ``steps`` warm-ups and
    visits begin.
    """
    subjects = {case: bound_subject(FakeSession()) for case in CASES}
    plan = Plan(CASES, 1e-9, rounds, 0.0, min_samples)
    found = measure(subjects, plan, deadline=After(steps)).samples
    kept = {case.backend: len(samples.host_ns) for case, samples in found.items()}
    return kept, {
        case.backend: str(samples.error) for case, samples in found.items() if samples.error
    }


@pytest.mark.parametrize(
    ("visits", "kept"), [(3, 1), (4, 1), (5, 1), (6, 2), (8, 2), (14, 4), (15, 5)]
)
def test_cases_that_end_early_keep_the_rounds_that_all_of_them_had(visits: int, kept: int) -> None:
    assert measured(3 + visits) == (dict.fromkeys("abc", kept), {})


def test_what_the_device_did_is_cut_like_the_hosts_times(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnStream(FakeSession):
        cuda_stream = 1

    monkeypatch.setattr("resnext_bench.measure.time_device", lambda _, count: ([1] * count, count))
    subjects = {case: bound_subject(OnStream()) for case in CASES}
    found = measure(
        subjects, Plan(CASES, 1e-9, 5, 0.0, 60), deadline=After(3 + 8), gpu_state=GpuState
    ).samples
    for samples in found.values():
        kept = samples.host_ns, samples.device_ns, samples.device_wall_ns, samples.gpu
        assert [len(rounds) for rounds in kept] == [2, 2, 2, 2]


def test_a_case_not_reached_in_the_first_round_is_out_of_time_and_others_keep_theirs() -> None:
    rounds, errors = measured(3 + 2)
    assert sorted(rounds.values()) == [0, 1, 1]
    assert errors == {name: OUT_OF_TIME for name, count in rounds.items() if count == 0}


@pytest.mark.parametrize(
    ("steps", "min_samples"),
    [
        (0, 60),  # over before anything ran
        (2, 60),  # over while warming up
        (3, 60),
        (3 + 8, 25),  # two rounds of five samples; a median needs eleven
    ],
)
def test_cases_with_too_few_samples_are_out_of_time(steps: int, min_samples: int) -> None:
    assert measured(steps, min_samples)[1] == dict.fromkeys("abc", OUT_OF_TIME)


def test_too_few_samples_in_all_rounds_is_not_a_matter_of_time() -> None:
    assert measured(3 + 15, min_samples=1)[1] == {}


def test_rounds_of_unequal_number_are_never_paired() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio_by_round([[1], [2]], [[1]])


def real_or_fake(
    digits: Weights, does: Callable[[str], None] = lambda _: None
) -> Callable[..., Session]:
    """Opens sessions that compute the right logits; each run calls ``does`` with the backend's name
    first.
    """

    def opens(_subject: Any, name: str, options: SessionOptions) -> Session:
        real = door.open_session(digits, options, "torch")

        class Whole(FakeSession):
            delivered = real.delivered

        def function(images: NDArray[Any]) -> NDArray[Any]:
            does(name)
            return real.run({"input": images})["logits"]

        return Whole(function, (1, 8, 8), 10)

    return opens


def run_with(digits: Weights, deadline: Deadline, labeled: Labeled | None = None) -> Run:
    plan = Plan((Case("torch", 2), Case("torch-compile", 2)), 0.02, 8, 0.0, 60)
    options = SessionOptions(device="cpu", memory_format="nchw")
    return run_benchmark(digits, plan, options=options, deadline=deadline, accuracy=labeled)


def test_a_case_for_which_there_was_no_time_is_not_opened_and_says_so(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(opening, "open_session", real_or_fake(digits, ran.append))
    done = run_with(digits, After(1000, lambda asked: asked == 1))
    assert set(ran) == {"torch"}
    assert [row.status for row in done.rows] == ["valid", "failed"], done.rows[0].reasons
    assert (done.rows[1].reasons, done.rows[1].exit_code) == ((OUT_OF_TIME,), 1)
    assert cli.exit_code(done) == 1


def test_a_row_that_was_not_measured_is_no_yardstick_for_speed(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "open_session", real_or_fake(digits))
    missing, fine = run_with(digits, After(1000, lambda asked: asked == 2)).rows
    assert (missing.status, missing.timings) == ("failed", ())
    assert fine.timings[0].speedup == pytest.approx((1.0, 1.0, 1.0))


def test_a_run_that_ends_early_is_compared_all_the_same_and_says_how_many_rounds_it_had(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "open_session", real_or_fake(digits))
    done = run_with(digits, After(2 + 13))  # one visit into the seventh round
    for row in done.rows:
        assert row.status == "valid", row.reasons
        assert len(row.timings[0].rounds_ns) == 6
        assert row.timings[0].speedup is not None
        assert row.parity is not None
        assert row.parity.passed
    assert rounds_done(done) == "6 of 8"
    assert "6 of 8 interleaved rounds" in markdown(done)
    assert rounds_done(run_with(digits, Deadline())) == "8"


def test_labeled_images_are_not_run_after_the_time_is_over(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "open_session", real_or_fake(digits))
    labeled = cast("Labeled", SimpleNamespace(measure=lambda *_: pytest.fail("images were run")))
    for row in run_with(digits, After(2 + 8), labeled).rows:
        assert row.reasons == (f"its accuracy was {OUT_OF_TIME}",)
        assert row.status == "invalid"


def bench(tmp_path: Path, *args: str) -> Result:
    small = [
        "--weights",
        "digits",
        "--device",
        "cpu",
        "--duration",
        "0.2",
        "--rounds",
        "3",
        "--warmup",
        "0",
    ]
    return CliRunner().invoke(
        cli.main,
        [
            *small,
            "--backend",
            "torch,torch-compile",
            "--samples",
            "60",
            "--json",
            f"{tmp_path}/r.json",
            "--markdown",
            f"{tmp_path}/r.md",
            *args,
        ],
    )


def test_a_command_without_time_still_reports(tmp_path: Path) -> None:
    result = bench(tmp_path, "--max-seconds", "0.001")
    assert result.exit_code == 1, result.output
    assert [row.reasons for row in read_run(tmp_path / "r.json").rows] == [(OUT_OF_TIME,)] * 2
    assert OUT_OF_TIME in (tmp_path / "r.md").read_text()
    assert result.stdout.startswith("FAILED: 2 of 2 rows")
    assert result.stdout.count("\nFAILED ") == 2
    assert "opening" not in result.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: str) -> None:
    result = bench(tmp_path, "--max-seconds", seconds)
    assert result.exit_code == 2
    assert "--max-seconds" in result.stderr


class Signalling:
    """Sends itself ``number`` in the given calls of all sessions together."""

    def __init__(self, number: signal.Signals, *calls: int) -> None:
        self._number = number
        self._calls = calls
        self._made = 0

    def __call__(self, _name: str) -> None:
        self._made += 1
        if self._made in self._calls:
            signal.raise_signal(self._number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_measuring_stops_it_and_what_was_measured_is_written(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    # Opening twice runs once, two warm-ups three times, then four visits run at least 1 + 20 times.
    monkeypatch.setattr(
        opening, "open_session", real_or_fake(digits, Signalling(number, 2 + 6 + 2 * 21 + 5))
    )
    result = bench(tmp_path, "--duration", "0.001")
    assert result.exit_code == 130, result.output
    assert result.stderr.splitlines()[-1] == "interrupted; what was measured before is reported"
    run = read_run(tmp_path / "r.json")
    assert [(row.status, len(row.timings[0].rounds_ns)) for row in run.rows] == [("valid", 1)] * 2
    assert result.stdout.startswith("VALID: interrupted early; ")
    assert result.stdout.count("\nVALID ") == 2
    assert "stopped after 1 of 3 rounds" in result.stdout
    assert (tmp_path / "r.md").is_file()
    assert signal.getsignal(number) == before


def test_cases_that_a_signal_left_without_samples_say_so(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        opening, "open_session", real_or_fake(digits, Signalling(signal.SIGTERM, 2 + 2))
    )
    assert bench(tmp_path).exit_code == 130
    assert [row.reasons for row in read_run(tmp_path / "r.json").rows] == [
        ("not measured: interrupted",)
    ] * 2


def test_signals_do_what_they_did_before_once_measuring_is_over() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Deadline(signals=(signal.SIGTERM,)).heeding_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_stops_at_once(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        opening, "open_session", real_or_fake(digits, Signalling(signal.SIGINT, 2 + 8, 2 + 9))
    )
    result = bench(tmp_path)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted; nothing half-written was left"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_opening_stops_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opens(*_: Any, **__: Any) -> Session:
        signal.raise_signal(signal.SIGTERM)
        return FakeSession()

    monkeypatch.setattr(opening, "open_session", opens)
    assert bench(tmp_path).exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_signals_of_a_caller_from_python_are_left_alone(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        opening, "open_session", real_or_fake(digits, Signalling(signal.SIGINT, 2 + 8))
    )
    with pytest.raises(KeyboardInterrupt):
        run_with(digits, Deadline())


def test_a_log_has_a_line_for_each_step_with_the_time_gone_and_stdout_stays_clean(
    digits: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(opening, "open_session", real_or_fake(digits))
    wide = iter(["within 2.3%"])
    monkeypatch.setattr("resnext_bench.measure.unfinished", lambda *_: next(wide, ""))
    result = bench(tmp_path, "--json", "-", "--duration", "0.001")
    steps = [
        line.split(" s  ")[1]
        for line in result.stderr.splitlines()
        if line[:7].strip()[:1].isdigit()
    ]
    assert steps == [
        "opening torch batch 1",
        "opening torch-compile batch 1",
        "warming up torch batch 1",
        "warming up torch-compile batch 1",
        "round 1/3",
        "round 2/3",
        "round 3/3",
        "round 4: within 2.3%",
        "comparing the outputs of torch batch 1",
        "comparing the outputs of torch-compile batch 1",
    ]
    assert Run.model_validate_json(result.stdout).rounds == 3
