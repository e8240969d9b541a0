"""The bar with the time left, on a pseudo-terminal; lines elsewhere."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from fakes.simulated import QUIET
from resnext import progress
from resnext.progress import Amount, Step, steps
from resnext.runtimes.session import Arrays
from resnext.testing import FakeSession
from resnext_bench.ab.protocol import Visit
from resnext_bench.ab.rounds import Schedule, measure_rounds
from resnext_bench.deadline import Deadline
from resnext_bench.measure import Subject, measure
from resnext_bench.plan import Case, Plan


class Slow(FakeSession):
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        time.sleep(0.002)
        return super().run(inputs)


class Terminal:
    """What was written to the pseudo-terminal."""

    text = ""


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch, width: int, encoding: str = "utf-8"
) -> Iterator[Terminal]:
    """stderr as a terminal of ``width`` columns."""
    shown, raw = Terminal(), []
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # closed by the other side
                return
            raw.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w", encoding=encoding) as stderr:  # noqa: PTH123  # a descriptor
        monkeypatch.setattr(sys, "stderr", stderr)
        yield shown
        stderr.flush()
    reader.join()
    os.close(ours)
    shown.text = b"".join(raw).decode(encoding)


def run(plan_rounds: int, say: object, deadline: Deadline | None = None) -> None:
    inputs = {"input": np.zeros((1, 1), np.float32)}
    sessions = {Case(name, 1): Slow() for name in ("one", "two")}
    subjects = {case: Subject(each, inputs, each.bind(inputs)) for case, each in sessions.items()}
    plan = Plan(tuple(sessions), 0.1, plan_rounds, 0.0, precision=None)
    measure(subjects, plan, say, deadline)  # type: ignore[arg-type]  # what steps yields


def drawn(text: str) -> list[str]:
    """Frames, without control sequences."""
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\n", text)
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", "━─"), ("ascii", "#-")])
@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_shows_a_bar_with_the_time_left(
    width: int, encoding: str, marks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_DRAWS_PER_SECOND", 50)
    with terminal(monkeypatch, width, encoding) as shown, steps("starting") as say:
        run(4, say)
    frames = drawn(shown.text)
    bars = [frame for frame in frames if "round " in frame and " left" in frame]
    assert bars
    drawing = rf"round \d/4 +[{marks}]{{{16 if width == 80 else 8}}} \d:\d\d left"
    assert all(re.search(drawing, bar) for bar in bars), bars
    full = [bar.count(marks[0]) for bar in bars]
    assert full == sorted(full)
    assert full[-1] > full[0]
    assert max(map(len, frames)) <= width
    assert "\x1b[?25h" in shown.text[-40:]  # the cursor is back


def test_nothing_is_drawn_on_a_dumb_terminal_but_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 80) as shown:
        monkeypatch.setenv("TERM", "dumb")
        with steps("starting") as say:
            run(2, say)
    assert "\x1b" not in shown.text
    assert [line.split("s  ")[1] for line in drawn(shown.text)] == [
        "warming up one batch 1",
        "warming up two batch 1",
        "round 1/2",
        "round 2/2",
    ]


def test_each_visit_counts_and_a_round_is_announced_once() -> None:
    seen: list[tuple[str, int, int]] = []

    def say(step: str) -> None:
        if isinstance(step, Step):
            seen.append((step, step.amount.done, step.amount.total))

    run(3, say)
    assert seen == [("round 1/3", 0, 6), ("round 2/3", 2, 6), ("round 3/3", 4, 6)]


def test_the_time_left_is_no_longer_than_the_time_limit() -> None:
    clock = progress._Clock(unicode=False)
    amount = Amount(1, 1000)
    clock.show(amount)
    clock._began -= 100
    assert re.search(r" 27:4\d:\d\d left$", str(clock))
    amount.ends = time.monotonic() + 60.4
    assert str(clock).endswith(" 1:00 left")
    amount.at_most = True
    assert str(clock).endswith(" at most 1:00 left")
    assert Deadline().ends is None
    assert 0 < (Deadline(60).ends or 0) - time.monotonic() <= 60


def test_a_step_without_an_amount_shows_the_elapsed_time() -> None:
    clock = progress._Clock(unicode=False)
    assert str(clock) == "0:00"
    clock._started -= 3725
    assert str(clock) == "1:02:05"
    clock.show(Amount(0, 4))
    assert str(clock) == "-" * 16
    clock.show(None)
    assert str(clock) == "1:02:05"


def test_a_long_description_leaves_room_for_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 60) as shown, steps("starting") as say:
        say(Step("round 9: " + "every interval is wide, " * 9, Amount(1, 3, at_most=True)))
        progress._spinning[0].refresh()
    frame = next(each for each in drawn(shown.text) if "round 9" in each)
    assert len(frame) <= 60
    assert "..." in frame
    assert frame.rstrip().endswith(" left")


def test_a_spinner_within_another_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> list[bool]:
        return [each.live.is_started for each in progress._spinning]

    with terminal(monkeypatch, 80), steps("outer"):
        with steps("inner"):
            assert started() == [False, True]
            with progress.aside():
                assert started() == [False, False]
            assert started() == [False, True]
        assert started() == [True]


def test_rounds_of_two_arms_have_a_bar_too() -> None:
    class Worker:
        def visit(self, iterations: int, expected_s: float) -> Visit:
            del expected_s
            return Visit(times_ns=(1000,) * iterations, load=QUIET)

    seen: list[tuple[int, int]] = []

    def say(step: str) -> None:
        assert isinstance(step, Step)
        seen.append((step.amount.done, step.amount.total))

    measure_rounds((Worker(), Worker()), (1e6, 1e6), Schedule(3, 0.01, 0, 1), say=say)
    assert seen == [(0, 3), (1, 3), (2, 3)]
