"""GPU acceptance: everything that only a GPU can show, most worth for each second first, nothing
lost when killed.

    PYTHONPATH=.:export:benchmarks python3 benchmarks/gpu_accept.py --out FOLDER --budget 540

Each step is a process group of its own; if a cell crashes it or makes the device useless to it, a
new process goes on behind that cell. Rows are appended to FOLDER/rows.jsonl as they come and
printed; accept.json and accept.md are written anew, whole, after each step; steps.log holds what
the steps print, environment.json the machine, junit.xml the tests. A step that fails, hangs or does
not fit into the time is a line, and the next goes on. ``--resume`` leaves out what FOLDER has from
the same code and device. ``--rehearse`` runs the same on a CPU, small.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from gpu_acceptance.rows import (
    DEVICE_LOST,
    ROOT,
    Row,
    append_row,
    code_digest,
    read_rows,
    under_way,
    under_way_path,
    write_whole,
)
from resnext.errors import BadInput, printable
from resnext.machine.cuda_driver import probe_driver
from resnext.readers.files import check_utf8

#: Seconds that stay free at the end of the budget, for writing results.
RESERVE_S = 20.0
#: Under this a step is not begun.
LEAST_S = 8.0
#: Characters of a reason that two of them are compared by: results keep the beginning of a long
#: line.
_REASON = 80
#: Between asking a step to stop and killing it.
GRACE_S = 4.0
#: Processes that a step may get, if cells end them.
PROCESSES = 5


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of `gpu_acceptance.steps`, or ``benchmark`` or ``tests``.
        share_s: the most seconds that it gets.
        stop: signal that makes it stop in order.
    """

    name: str
    share_s: float
    stop: signal.Signals = signal.SIGTERM


#: In this order: what nobody knows yet, and what the rest is measured against, comes first.
STEPS = (
    Step("environment", 60),
    Step("ceilings", 25),
    Step("smoke", 75),
    Step("kernels", 120),
    Step("fused", 150),
    Step("autotune", 200),
    Step("tests", 240, signal.SIGINT),
    Step("package", 150),
    Step("merged", 50),
    Step("chunks", 30),
    Step("compile", 120),
    Step("ort-cuda", 60),
    Step("trust", 90),
    Step("benchmark", 130),
    Step("eager", 130),
)

#: Steps that `gpu_acceptance.steps` runs.
OWN = tuple(step.name for step in STEPS if step.name not in ("benchmark", "tests"))


def _share(row: Row) -> str:
    floor = row.get("own_floor_us", row["floor_us"])
    return f"{floor / row['median_us']:.0%} of its floor"


def _faster(row: Row) -> str:
    if row.get("ratio") is None:
        return "not compared"
    return f"{row['ratio']:.2f}x {row['against']}"


#: What is expected, said before the run so that a surprise is seen: text, and the rows that tell,
#: by step and cell.
PREDICTIONS: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
    (
        "fp16 product 700 to 800 TFLOP/s",
        "ceilings",
        "fp16 product",
        lambda row: f"{row['tflops']:.0f} TFLOP/s",
    ),
    ("copy 3.0 TB/s (H100), 4.3 (H200)", "ceilings", "copy", lambda row: f"{row['tb_s']:.2f} TB/s"),
    (
        "about 2 us a launch in a graph",
        "ceilings",
        "empty launch",
        lambda row: f"{row['launch_us']:.2f} us",
    ),
    *(
        (
            f"{kernel}: 60 % of its floor or more, at least {times}x cuDNN's best",
            "kernels",
            f"fp16 batch 64 {layer}.conv2 winner",
            lambda row: f"{_share(row)}, {_faster(row)}",
        )
        for kernel, layer, times in (
            ("3x3 of stage 1, groups of 4", "layer1.0", "2"),
            ("3x3 of stage 2, groups of 8", "layer2.1", "2"),
            ("3x3 of stage 3, groups of 16", "layer3.1", "1.5"),
            ("3x3 of stage 4, groups of 32", "layer4.1", "1.2"),
        )
    ),
    (
        "1x1 of stage 1 with shortcut: no slower than cuBLAS, 70 % of its floor",
        "kernels",
        "fp16 batch 64 layer1.1.conv3 winner",
        lambda row: f"{_share(row)}, {_faster(row)}",
    ),
    (
        "goal: the network on our kernels, fp16, batch 64: at least 70 % of the floor",
        "fused",
        "fp16 batch 64 fused",
        lambda row: f"{_share(row)}, {row['images_s']:,.0f} images/s, {_faster(row)}",
    ),
    (
        "goal: at least 2x torch.compile max-autotune with batch norms folded",
        "autotune",
        "fp16 batch 64 fused",
        _faster,
    ),
    (
        "goal: batch 1 within 1.3 times its launches (112 us at 2 us each): 146 us",
        "fused",
        "fp16 batch 1 fused",
        lambda row: f"{row['median_us']:.0f} us, {_faster(row)}",
    ),
    (
        "bf16 as fast as fp16, within 3 %",
        "fused",
        "bf16 batch 64 fused",
        lambda row: f"{row['median_us']:.0f} us",
    ),
    (
        "eager channels-last, fp16, batch 64: 10k to 16k images/s; floor 48.8k",
        "eager",
        "fp16 batch 64 channels-last",
        lambda row: f"{row['images_s']:,.0f} images/s",
    ),
    (
        "batch 1 in a graph: 250 to 500 us",
        "eager",
        "fp16 batch 1 channels-last",
        lambda row: f"{row['median_us']:.0f} us",
    ),
    (
        "fp32 without TF32, batch 64: 3k to 5k images/s",
        "eager",
        "fp32 batch 64 channels-last",
        lambda row: f"{row['images_s']:,.0f} images/s",
    ),
    (
        "merged to 32 within 3 % of unmerged, or faster",
        "merged",
        "fp16 batch 64 groups 32",
        lambda row: f"{row['median_us']:.0f} us",
    ),
    (
        "unmerged, to compare with",
        "merged",
        "fp16 batch 64 groups as is",
        lambda row: f"{row['median_us']:.0f} us",
    ),
    (
        "torch.compile, fp16, batch 64: 18k to 22k images/s",
        "compile",
        "fp16 batch 64",
        lambda row: f"{row['images_s']:,.0f} images/s",
    ),
)


@dataclass
class Outcome:
    """How a step ended.

    Attributes:
        status: ``done``, ``failed``, ``timeout``, ``stopped``, ``no time`` or ``not run`` yet.
        seconds: that it took.
        rows: that it wrote.
        error: first line of what went wrong.
    """

    status: str = "not run"
    seconds: float = 0.0
    rows: int = 0
    error: str = ""


@dataclass
class Acceptance:
    """One call: where results go, how much time there is, what has ended how."""

    out: Path
    deadline: float
    rehearse: bool
    resume: bool
    steps: tuple[Step, ...]
    budget_s: float
    code: str
    created: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    printed: int = 0

    @property
    def rows_path(self) -> Path:
        """Where rows are appended."""
        return self.out / "rows.jsonl"

    def run(self) -> None:
        """Every step, then the verdict."""
        for step in self.steps:
            left = self.deadline - time.monotonic() - RESERVE_S
            limit = min(step.share_s, left)
            outcome = self.outcomes[step.name]
            if limit < LEAST_S:
                outcome.status = "no time"
                continue
            click.echo(f"--- {step.name}, at most {limit:.0f} s of {left:.0f}")
            self._step(step, limit, outcome)
            self.save()
            click.echo(
                f"--- {step.name}: {outcome.status} in {outcome.seconds:.0f} s, {outcome.rows} rows"
                f" {outcome.error}"
            )
        self.save()

    def _step(self, step: Step, limit_s: float, outcome: Outcome) -> None:
        before, started = self._count(step), time.monotonic()
        if step.name == "tests":
            (self.out / "junit.xml").unlink(
                missing_ok=True
            )  # an earlier run's must not pass for this one's
        with tempfile.TemporaryDirectory(prefix="gpu-accept-") as scratch:
            command = self._command(step, limit_s, Path(scratch))
            try:
                code = self._processes(step, command, started + limit_s, outcome)
            except OSError as exc:
                code, outcome.error = 127, str(exc)
            try:
                self._collect(step, Path(scratch))
            except (
                Exception
            ) as exc:  # results in another form than expected end their own step alone
                outcome.error = f"its results could not be read: {type(exc).__name__}: {exc}"
        outcome.seconds = time.monotonic() - started
        outcome.rows = self._count(step) - before
        outcome.status = (
            "done" if code == 0 and not outcome.error else "timeout" if code is None else "failed"
        )
        if code is not None and code < 0:
            outcome.error = outcome.error or f"died of {signal.Signals(-code).name}"
        elif code == DEVICE_LOST:
            outcome.error = outcome.error or "a kernel made the device useless to its process"
        elif code:
            outcome.error = outcome.error or f"exit {code}: {self._last_line()}"
        self._print_rows()

    def _command(self, step: Step, limit_s: float, scratch: Path) -> list[str]:
        flags = ["--rehearse"] * self.rehearse + ["--resume"] * self.resume
        if step.name == "benchmark":
            wanted = (
                ["--weights", "digits", "--batch", "1,8"] if self.rehearse else ["--batch", "64"]
            )
            precision = "fp32" if self.rehearse else "fp16"
            fused = () if self.rehearse else ("torch-fused",)
            return [
                sys.executable,
                "-m",
                "resnext_bench.cli.bench",
                "--backend",
                ",".join(("torch", "torch-folded", "torch-compile", *fused)),
                *wanted,
                "--precision",
                precision,
                "--duration",
                "1",
                "--device",
                "cpu" if self.rehearse else "cuda",
                "--max-seconds",
                f"{max(5.0, limit_s - 15):.0f}",
                "--json",
                str(scratch / "run.json"),
            ]
        if step.name == "tests":
            return [
                sys.executable,
                "-m",
                "pytest",
                "tests/gpu",
                "-v",
                "-ra",
                "--durations=20",
                "-p",
                "no:cacheprovider",
                "-o",
                "filterwarnings=default",
                "-o",
                "timeout=60",
                f"--junitxml={self.out / 'junit.xml'}",
            ]
        return [
            sys.executable,
            "-m",
            "gpu_acceptance.steps",
            step.name,
            "--rows",
            str(self.rows_path),
            "--cache",
            str(cache()),
            *flags,
        ]

    def _processes(
        self, step: Step, command: list[str], deadline: float, outcome: Outcome
    ) -> int | None:
        """Run ``command``; if a cell crashes it or loses the device, again behind that cell.

        Returns:
            The exit code of the first process that did not end in order, None if there was no more
            time.
        """
        first, worst = len(read_rows(self.rows_path)), 0
        skip: list[str] = []
        for _ in range(PROCESSES):
            under_way_path(cache(), step.name).unlink(missing_ok=True)
            options = [f"--skip={cell}" for cell in skip]
            if step.name in OWN:
                options += ["--deadline", str(deadline)]
            code = self._wait(step, command + options, deadline)
            cells = under_way(cache(), step.name)
            if code is None:
                outcome.error = f"it was at {cells[0]}" if cells else ""
                return None
            worst = worst or code
            crashed = code < 0 or code == DEVICE_LOST
            if not crashed or not cells or set(cells) <= set(skip):
                return worst
            known = {
                row["cell"] for row in read_rows(self.rows_path)[first:] if row["step"] == step.name
            }
            died = "lost the device" if code > 0 else f"died of {signal.Signals(-code).name}"
            for cell in cells:
                if cell not in known:
                    self._write(step, cell, "failed", error=f"its process {died}")
            skip = sorted(known | set(cells))
            if deadline - time.monotonic() < LEAST_S:
                return worst
        return worst

    def _wait(self, step: Step, command: list[str], deadline: float) -> int | None:
        """Run ``command`` until it ends or ``deadline``; its exit code, None if it had to be
        stopped.
        """
        with (self.out / "steps.log").open("ab") as log:
            log.write(f"\n--- {' '.join(command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            code: int | None = None
            while (code := self.process.poll()) is None and time.monotonic() < deadline:
                time.sleep(0.1)
                self._print_rows()
            self.stop(step.stop)
            return code

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the running step's whole process group, compile workers and all."""
        if self.process is None:
            return
        group, self_ended = self.process.pid, self.process.poll() is not None
        if not self_ended:
            _signal(group, how)
            end = time.monotonic() + (GRACE_S if how != signal.SIGINT else 3 * GRACE_S)
            while self.process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
        _signal(group, signal.SIGKILL)  # what it started and left behind, too
        self.process.wait()
        self.process = None

    def _collect(self, step: Step, scratch: Path) -> None:
        """Turn what commands wrote into rows."""
        if step.name == "benchmark":
            try:
                run = json.loads((scratch / "run.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return
            self.runs[step.name] = run
            for row in run["rows"]:
                for timing in row["timings"] or [None]:
                    # A failed row has the name that its first time gets when it is resumed.
                    boundary = timing["boundary"] if timing else "host"
                    name = f"{row['backend']} batch {row['batch']} {boundary}"
                    facts: Row = (
                        {}
                        if timing is None
                        else {
                            "median_us": timing["stats"]["median_ns"] / 1e3,
                            "images_s": timing["stats"]["images_per_s"],
                        }
                    )
                    facts |= {"error": row["reasons"][0]} if row["reasons"] else {}
                    facts |= {"max_error": row["parity"]["max_error"]} if row["parity"] else {}
                    self._write(step, name, "ok" if row["status"] == "valid" else "failed", **facts)
        elif step.name == "tests":
            for name, status, why in test_results(self.out / "junit.xml"):
                self._write(step, name, status, **({"error": why} if why else {}))

    def _write(self, step: Step, cell: str, status: str, **facts: Any) -> None:
        device = "cpu (rehearsal)" if self.rehearse else probe_driver().gpus[0].name
        append_row(
            self.rows_path,
            {
                "step": step.name,
                "cell": cell,
                "status": status,
                "device": device,
                "code": self.code,
                **facts,
            },
        )

    def _count(self, step: Step) -> int:
        return sum(row["step"] == step.name for row in read_rows(self.rows_path))

    def _print_rows(self) -> None:
        rows = read_rows(self.rows_path)
        for row in rows[self.printed :]:
            click.echo(line(row))
        self.printed = len(rows)

    def _last_line(self) -> str:
        lines = (
            (self.out / "steps.log")
            .read_text(encoding="utf-8", errors="replace")
            .strip()
            .splitlines()
        )
        return lines[-1][:300] if lines else ""

    def save(self) -> None:
        """accept.json and accept.md, each whole."""
        rows = latest(read_rows(self.rows_path))
        facts = {
            "created": self.created,
            "code": self.code,
            "rehearsal": self.rehearse,
            "budget_s": self.budget_s,
            "steps": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
            "problems": self.problems(rows),
            "rows": rows,
            "runs": self.runs,
        }
        write_whole(self.out / "accept.json", json.dumps(facts, indent=1) + "\n")
        write_whole(self.out / "accept.md", self.markdown(rows))

    def problems(self, rows: Sequence[Row]) -> list[str]:
        """Why the acceptance is not passed; empty if it is."""
        found = [
            f"step {name}: {outcome.status} {outcome.error}".strip()
            for name, outcome in self.outcomes.items()
            if outcome.status != "done"
        ]
        failed = [row for row in rows if row["status"] == "failed"]
        found += [f"{row['step']}: {row['cell']}: {row.get('error', '')}" for row in failed]
        if not self.rehearse:  # where every test of a GPU is skipped
            found += [
                f"skipped without need: {row['cell']}: {row.get('error', '')}"
                for row in unexpected_skips(rows)
            ]
        return found

    def markdown(self, rows: Sequence[Row]) -> str:
        """Steps, predictions and rows as tables."""
        device = next((row["device"] for row in rows), "no rows yet")
        parts = [
            f"# GPU acceptance, {device}, {self.created}, code {self.code}",
            "",
            "| step | status | s | rows | |",
        ]
        parts += ["| --- | --- | ---: | ---: | --- |"]
        parts += [
            f"| {name} | {outcome.status} | {outcome.seconds:.0f} | {outcome.rows} |"
            f" {_cell(outcome.error)} |"
            for name, outcome in self.outcomes.items()
        ]
        parts += ["", "| predicted | seen |", "| --- | --- |"]
        parts += [
            f"| {text} | {seen(rows, step, cell, say)} |" for text, step, cell, say in PREDICTIONS
        ]
        parts += [
            "",
            f"| {' | '.join(_HEADS)} |",
            f"| --- | --- | --- |{' ---: |' * (len(_HEADS) - 4)} --- |",
        ]
        tests = [row for row in rows if row["step"] == "tests"]
        parts += [
            f"| {' | '.join(columns(row))} |"
            for row in rows
            if row["status"] == "failed" or not _is_detail(row)
        ]
        counts = Counter(row["status"] for row in tests)
        parts += [
            "",
            (
                f"Tests: {counts['ok']} passed, {counts['failed']} failed, {counts['skipped']}"
                " skipped."
            ),
            "",
        ]
        reasons = Counter(row.get("error", "") for row in tests if row["status"] == "skipped")
        parts += [f"- {count} skipped: {reason}" for reason, count in reasons.most_common()]
        return "\n".join([*parts, ""])


def unexpected_skips(rows: Sequence[Row]) -> list[Row]:
    """Skipped tests whose reason is not what keeps a backend from running here, as the first step
    found out.
    """
    told: dict[str, str] = next(
        (row.get("backends", {}) for row in rows if row["step"] == "environment"), {}
    )
    known = [str(reason)[:_REASON] for reason in told.values() if reason != "can run"]
    skipped = [row for row in rows if row["step"] == "tests" and row["status"] == "skipped"]
    return [row for row in skipped if not any(reason in row.get("error", "") for reason in known)]


def _is_detail(row: Row) -> bool:
    """Whether the table leaves the row to rows.jsonl unless it failed: tests, and the ways to run a
    layer that others beat.
    """
    return row["step"] == "tests" or (row["step"] == "kernels" and "choice" not in row)


_HEADS = (
    "step",
    "cell",
    "status",
    "median us",
    "p90 us",
    "plain us",
    "cold us",
    "images/s",
    "of floor",
    "of own floor",
    "faster",
    "error",
    "top-1",
    "MHz",
    "why",
)


def columns(row: Row) -> tuple[str, ...]:
    """The cells of a row in the table."""

    def number(key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else format(value, form)

    def share(floor: str) -> str:
        return (
            f"{row[floor] / row['median_us']:.1%}"
            if row.get(floor) and row.get("median_us")
            else "-"
        )

    faster = "-" if row.get("ratio") is None else f"{row['ratio']:.2f}x {_cell(row['against'])}"
    return (
        row["step"],
        _cell(row["cell"]),
        row["status"],
        number("median_us", ".1f"),
        number("p90_us", ".1f"),
        number("plain_us", ".1f"),
        number("cold_us", ".1f"),
        number("images_s", ",.0f"),
        share("floor_us"),
        share("own_floor_us"),
        faster,
        number("max_error", ".1e"),
        number("top1", ".0%"),
        number("sm_mhz", ""),
        _cell(str(row.get("error", ""))),
    )


def line(row: Row) -> str:
    """A row on one line, without what it lacks."""
    more = (
        ("median_us", " us"),
        ("images_s", " images/s"),
        ("tflops", " TFLOP/s"),
        ("tb_s", " TB/s"),
        ("launch_us", " us each"),
        ("ratio", "x as fast"),
    )
    numbers = [f"{row[key]:,.4g}{unit}" for key, unit in more if row.get(key) is not None]
    error = [f"max error {row['max_error']:.1e}"] if row.get("max_error") is not None else []
    return "  ".join(
        [
            f"{row['status']:7}{row['step']}: {row['cell']}",
            *numbers,
            *error,
            str(row.get("error", "")),
        ]
    ).rstrip()


def latest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each cell, in the order in which the cells came first."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found[row["step"], row["cell"]] = row
    return list(found.values())


def seen(rows: Sequence[Row], step: str, cell: str, say: Callable[[Row], str]) -> str:
    """What became of a prediction."""
    row = next((row for row in rows if (row["step"], row["cell"]) == (step, cell)), None)
    return (
        "not measured"
        if row is None
        else say(row)
        if row["status"] == "ok"
        else f"failed: {_cell(row['error'])}"
    )


def test_results(path: Path) -> list[tuple[str, str, str]]:
    """Name, status and first line of the error of each test in a JUnit file; none if there is no
    whole file. A test that was interrupted has no name, and no result.
    """
    try:
        cases = ET.parse(path).getroot().iter("testcase")
    except (OSError, ET.ParseError):
        return []
    found = []
    for case in cases:
        if not case.get("name"):
            continue
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        verdicts = {child.tag: child for child in case}
        for tag, status in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            if (verdict := verdicts.get(tag)) is not None:
                found.append(
                    (name, status, (verdict.get("message") or "").strip().partition("\n")[0][:300])
                )
                break
        else:
            found.append((name, "ok", ""))
    return found


def cache() -> Path:
    """One cache for all steps: weights, references, ONNX, compiled kernels."""
    return Path(
        os.environ.get("RESNEXT_CACHE_DIR") or Path(tempfile.gettempdir()) / "gpu-accept-cache"
    )


def environment() -> dict[str, str]:
    """This process's, with the toolkit in front of the caller's own PYTHONPATH and everything
    cached in one place.
    """
    paths = [str(ROOT / part) for part in (".", "export", "benchmarks")]
    given = os.environ.get("PYTHONPATH")
    return {
        "RESNEXT_CACHE_DIR": str(cache()),
        "TORCHINDUCTOR_CACHE_DIR": str(cache() / "inductor"),
        "TRITON_CACHE_DIR": str(cache() / "triton"),
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])]),
        "PYTHONUNBUFFERED": "1",
    }


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _signal(group: int, how: signal.Signals) -> None:
    try:
        os.killpg(group, how)
    except ProcessLookupError:
        return


def _die_with_parent() -> None:
    """If this script is killed, its step is too, or it would go on writing rows (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@click.command(help=(__doc__ or "").partition("\n\n")[0])
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("gpu-accept"),
    show_default=True,
    help="Folder.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=30),
    default=540.0,
    show_default=True,
    help="Seconds for all of it.",
)
@click.option(
    "--steps",
    "wanted",
    metavar="NAME[,NAME...]",
    help=f"Only these of {', '.join(s.name for s in STEPS)}.",
)
@click.option(
    "--resume", is_flag=True, help="Leave out what the folder has from the same code and device."
)
@click.option("--rehearse", is_flag=True, help="Run on a CPU, small, to try the script.")
def main(out: Path, budget: float, wanted: str | None, resume: bool, rehearse: bool) -> None:
    """Run the steps, print the table so far, end with what went wrong."""
    deadline = time.monotonic() + budget
    problem = probe_driver().problem
    if problem is not None and not rehearse:
        raise click.ClickException(
            f"GPU acceptance needs a CUDA device: {problem}; --rehearse runs without one"
        )
    names = wanted.split(",") if wanted else [step.name for step in STEPS]
    if unknown := sorted(set(names) - {step.name for step in STEPS}):
        raise click.UsageError(
            f"no step {unknown[0]!r}; there are {', '.join(step.name for step in STEPS)}"
        )
    steps = tuple(step for step in STEPS if step.name in names)
    try:
        out = out.resolve()
        check_utf8(out, "the value of --out")
        out.mkdir(parents=True, exist_ok=True)
    except (BadInput, OSError) as exc:
        click.echo(printable(f"error: cannot use the folder: {exc}"), err=True)
        sys.exit(BadInput.exit_code)
    if not resume:
        for name in RESULTS:
            (out / name).unlink(missing_ok=True)
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    run = Acceptance(
        out,
        deadline,
        rehearse,
        resume,
        steps,
        budget,
        code_digest(),
        created,
        {step.name: Outcome() for step in steps},
    )
    run.printed = len(read_rows(run.rows_path))
    run.save()

    def stopped(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        run.stop()
        for outcome in run.outcomes.values():
            outcome.status = "stopped" if outcome.status == "not run" else outcome.status
        end(run, 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopped)
    run.run()
    end(run, 0)


#: Everything that a run leaves.
RESULTS = ("accept.json", "accept.md", "rows.jsonl", "environment.json", "steps.log", "junit.xml")


def end(run: Acceptance, code: int) -> None:
    """Save, print the table, and exit with the first thing that went wrong."""
    run.save()
    click.echo((run.out / "accept.md").read_text(encoding="utf-8"))
    problems = run.problems(latest(read_rows(run.rows_path)))
    if problems:
        click.echo(
            f"error: GPU acceptance failed, {len(problems)} problems; first: {problems[0]}",
            err=True,
        )
    sys.stdout.flush()
    os._exit(code or (1 if problems else 0))  # from a signal handler too: nothing is left to do


if __name__ == "__main__":
    main()
