"""Progress of a build by phase and parent, and canceling it: Ctrl-C waits for the library and
leaves nothing.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.errors import EngineRefused
from resnext.runtimes.trt.library import Library
from resnext_export.tensorrt.engine_from_onnx import BuiltEngine, engine_from_onnx
from resnext_export.tensorrt.progress import BuildWatch, build_bars, run_cancelable

Said = list[tuple[str, "str | None", int, int]]


class Bars:
    """Stands in for rich's Progress."""

    def __init__(self) -> None:
        self.shown: dict[int, tuple[str, int, float]] = {}
        self.made: list[str] = []
        self.removed: list[tuple[str, int, float]] = []

    def add_task(self, description: str, total: int) -> int:
        self.made.append(description)
        self.shown[len(self.made)] = (description, total, 0)
        return len(self.made)

    def update(self, task: int, completed: float) -> None:
        description, total, _ = self.shown[task]
        self.shown[task] = (description, total, completed)

    def remove_task(self, task: int) -> None:
        self.removed.append(self.shown.pop(task))


def watched() -> tuple[BuildWatch, Bars, Said]:
    bars, said = Bars(), Said()
    return BuildWatch(bars, lambda *step: said.append(step)), bars, said  # type: ignore[arg-type]  # the stand-in


def build(library: Library, parent: Artifact, watch: BuildWatch) -> BuiltEngine:
    options = EngineOptions(profiles=(BatchRange.parse("1:8:64"),))
    return engine_from_onnx(
        parent.path, library, options, shapes={"input": (None, 1, 8, 8)}, watch=watch
    )


# ---- which bar


def test_each_phase_has_a_bar_under_its_parents_until_it_ends() -> None:
    watch, bars, said = watched()
    watch.start("build", None, 2)
    watch.start("timing", "build", 3)
    assert watch.step("timing", 0)
    assert bars.shown == {1: ("build", 2, 0), 2: ("  timing", 3, 1)}
    watch.finish("timing")
    assert bars.shown == {1: ("build", 2, 0)}
    watch.step("build", 0)
    watch.finish("build")
    assert bars.shown == {}
    assert said == [
        ("build", None, 0, 2),
        ("timing", "build", 0, 3),
        ("timing", "build", 1, 3),
        ("build", None, 1, 2),
    ]


def test_a_phase_inside_one_of_the_same_name_does_not_move_the_outer_bar() -> None:
    watch, bars, said = watched()
    watch.start("A", None, 9)
    watch.start("timing", "A", 4)
    watch.start("B", "timing", 2)
    watch.start("timing", "B", 7)
    watch.step("timing", 5)
    assert [bars.shown[2], bars.shown[4]] == [("  timing", 4, 0), ("      timing", 7, 6)]
    assert said[-1:] == [("timing", "B", 6, 7)]
    watch.finish("timing")
    watch.step("timing", 2)
    assert said[-1:] == [("timing", "A", 3, 4)]
    assert [bars.shown[2]] == [("  timing", 4, 3)]
    for phase in ("B", "timing", "A"):
        watch.finish(phase)
    assert bars.shown == {}


@pytest.mark.parametrize("parents", [("A", "B"), ("A", "A")])
def test_phases_of_one_name_on_two_threads_do_not_mix(parents: tuple[str, str]) -> None:
    watch, bars, said = watched()
    turn = [threading.Event() for _ in range(5)]
    for parent in dict.fromkeys(parents):
        watch.start(parent, None, 1)

    def first() -> None:
        watch.start("timing", parents[0], 3)
        turn[0].set()
        turn[1].wait(10)
        watch.step("timing", 0)  # the other thread's began later
        turn[2].set()
        turn[3].wait(10)
        watch.finish("timing")
        turn[4].set()

    def second() -> None:
        turn[0].wait(10)
        watch.start("timing", parents[1], 5)
        turn[1].set()
        turn[2].wait(10)
        watch.step("timing", 3)
        turn[3].set()
        turn[4].wait(10)
        watch.finish("timing")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [step for step in said if step[0] == "timing" and step[2]] == [
        ("timing", parents[0], 1, 3),
        ("timing", parents[1], 4, 5),
    ]
    assert bars.removed == [("  timing", 3, 1), ("  timing", 5, 4)]


def test_a_step_from_a_thread_that_began_nothing_counts_for_the_phase_of_that_name() -> None:
    watch, bars, _ = watched()
    watch.start("timing", None, 3)
    thread = threading.Thread(target=watch.step, args=("timing", 1))
    thread.start()
    thread.join(10)
    assert bars.shown == {1: ("timing", 3, 2)}


def test_phases_that_never_began_are_passed_over() -> None:
    watch, bars, said = watched()
    assert [watch.step("timing", 0)] == [True]
    watch.finish("timing")
    assert (bars.made, said) == ([], [])


def test_a_canceled_build_is_told_so_at_its_next_step() -> None:
    watch, _, _ = watched()
    watch.start("timing", None, 2)
    watch.canceled = True
    assert [watch.step("timing", 0), watch.step("another", 0)] == [False, False]


# ---- a real build


def test_a_real_build_reports_its_phases(rtx: Library, digits_artifact: Artifact) -> None:
    watch, bars, said = watched()
    assert build(rtx, digits_artifact, watch).data
    assert said[0][:3] == ("Building engine", None, 0)
    parents = {phase: parent for phase, parent, _, _ in said}
    assert len(parents) > 3
    assert all(parent is None or parent in parents for parent in parents.values())
    assert all(0 <= done <= steps for _, _, done, steps in said)
    assert bars.made[0] == "Building engine"
    assert bars.made[1].startswith("  ")
    assert bars.shown == {}


class Terminal(io.StringIO):
    """What rich takes for a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_come_and_go_on_a_terminal(
    rtx: Library, digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with build_bars() as watch:
        progress = watch._progress
        assert progress is not None
        build(rtx, digits_artifact, watch)
        assert progress.tasks == []
        watch.start("[bold]Timing[/oops]", None, 2)  # names are no markup
        progress.refresh()
    drawn = terminal.getvalue()
    assert "Building engine" in drawn
    assert "[bold]Timing[/oops]" in drawn
    assert drawn.rstrip("\r\n").endswith("\x1b[2K")  # the last line is erased


def test_nothing_is_drawn_elsewhere(
    rtx: Library, digits_artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    with build_bars() as watch:
        build(rtx, digits_artifact, watch)
    assert capfd.readouterr() == ("", "")


# ---- canceling


def test_a_canceled_build_stops_with_an_error(rtx: Library, digits_artifact: Artifact) -> None:
    steps = []

    def cancel(*step: object) -> None:
        steps.append(step)
        watch.canceled = True

    watch = BuildWatch(None, cancel)
    with pytest.raises(EngineRefused, match=r"(?i)cancel"):
        build(rtx, digits_artifact, watch)
    canceled_after = len(steps)
    steps.clear()
    watch = BuildWatch(None, lambda *step: steps.append(step))
    build(rtx, digits_artifact, watch)
    assert canceled_after < len(steps) / 2


@pytest.mark.parametrize("interruptions", [1, 2])
def test_an_interruption_cancels_waits_for_the_work_and_goes_its_way(interruptions: int) -> None:
    watch, ended = BuildWatch(), []

    def work() -> None:
        for _ in range(interruptions):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # as long as a step of the library may take
        while not watch.canceled:
            time.sleep(0.01)
        time.sleep(0.2)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_cancelable(work, watch)
    assert ended == [True]


def test_an_interruption_before_the_work_begins_keeps_it_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = []
    start = threading.Thread.start

    def interrupted_start(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        run_cancelable(lambda: ran.append(True), BuildWatch())
    time.sleep(0.1)
    assert ran == []
    assert "trt-build" not in {thread.name for thread in threading.enumerate()}


def test_work_gives_its_outcome_or_its_error() -> None:
    assert run_cancelable(lambda: threading.current_thread().name, BuildWatch()) == "trt-build"
    with pytest.raises(ZeroDivisionError):
        run_cancelable(lambda: 1 // 0, BuildWatch())


#: A command whose build says that it is under way; ``delay`` seconds a step, for builds that are
#: over too soon.
SCRIPT = """
import sys, time
from contextlib import contextmanager
from resnext_export.formats import tensorrt as engine_artifact
from resnext_export.tensorrt.progress import BuildWatch
from resnext_export.cli.export import main

@contextmanager
def watched():
    def said(phase, parent, done, steps):
        print(phase, flush=True)
        time.sleep(float(sys.argv[1]))
    yield BuildWatch(None, said)

engine_artifact.build_bars = watched
main(sys.argv[2:])
"""


def interrupted(
    delay: float, arguments: list[str], folder: Path, when: Callable[[Any], None]
) -> tuple[int, str]:
    """Exit code and stderr of a command that is interrupted in the midst of a build."""
    (folder / "tmp").mkdir()
    environment = {
        **os.environ,
        "RESNEXT_CACHE_DIR": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(folder / "tmp"),
    }
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(delay),
        *arguments,
        "--output",
        str(folder / "out" / "engine"),
    ]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    when(child.stdout)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors


def fifth_step(said: Any) -> None:
    for _ in range(5):
        assert said.readline()


def test_an_interrupted_command_leaves_nothing(
    rtx: Library, digits_artifact: Artifact, tmp_path: Path
) -> None:
    arguments = ["--format", rtx.kind, "--onnx", str(digits_artifact.directory)]
    code, errors = interrupted(0.05, arguments, tmp_path, fifth_step)
    assert (code, errors) == (130, "interrupted; nothing half-written was left\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_interrupted_build_of_resnext50_leaves_nothing(rtx: Library, tmp_path: Path) -> None:
    def when(said: Any) -> None:
        while "Optimizing graph" not in said.readline():
            pass
        time.sleep(0.1)

    arguments = [
        "--format",
        rtx.kind,
        "--model",
        "resnext50_32x4d",
        "--precision",
        "fp16",
        "--no-check",
    ]
    code, errors = interrupted(0, arguments, tmp_path, when)
    assert (code, errors) == (130, "interrupted; nothing half-written was left\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
