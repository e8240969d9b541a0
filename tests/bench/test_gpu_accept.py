"""GPU acceptance keeps what it has measured, whatever fails, hangs or kills it, and lets nothing
wrong pass.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import gpu_accept
from gpu_acceptance import device, fused, steps
from gpu_acceptance.device import Bench, Forward, floor_us, live, measure_group
from gpu_acceptance.rows import append_row, code_digest, first_line, latest_line_is_whole, read_rows
from resnext.network.config import VARIANTS
from resnext.network.model import ResNeXt

ROOT = Path(__file__).parents[2]


# What it runs in.


def test_make_adds_to_the_callers_pythonpath(tmp_path: Path) -> None:
    (tmp_path / "carried.py").write_text("")
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import carried, resnext, resnext_bench,"
        " gpu_acceptance'\n"
    )
    python.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    made = ["make", "gpu-accept", f"PYTHON={python}"]
    done = subprocess.run(
        made, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_steps_get_the_callers_pythonpath_behind_the_toolkits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/carried")
    paths = gpu_accept.environment()["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(ROOT), str(ROOT / "export"), str(ROOT / "benchmarks"), "/carried"]


def test_the_light_steps_need_no_pydantic(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['pydantic'] = sys.modules['platformdirs'] = None\n"
    code = (
        f"{blocked}from gpu_acceptance import fused, kernels, steps; import gpu_accept\nfolder ="
        f" {str(tmp_path)!r}\nsteps.main(['environment', '--rows', folder + '/rows.jsonl',"
        " '--cache', folder, '--rehearse'])"
    )
    subprocess.run([sys.executable, "-c", code], env=gpu_accept.environment(), check=True)
    assert [row["status"] for row in read_rows(tmp_path / "rows.jsonl")] == ["ok"]
    assert "pydantic" in json.loads((tmp_path / "environment.json").read_text())["modules"]


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "x" * 256])
def test_a_folder_that_cannot_be_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(gpu_accept.main, ["--rehearse", "--out", name])
    assert done.exit_code == 4
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_so() -> None:
    done = CliRunner().invoke(gpu_accept.main, [])
    assert done.exit_code == 1
    assert "needs a CUDA device" in done.output
    assert "--rehearse" in done.output


def test_an_unknown_step_names_those_there_are() -> None:
    done = CliRunner().invoke(gpu_accept.main, ["--rehearse", "--steps", "eagre"])
    assert done.exit_code == 2
    assert "no step 'eagre'" in done.output


# What it keeps.


@pytest.fixture
def accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., gpu_accept.Acceptance]:
    """An acceptance whose steps are the Python programs given by name; `ROW` in them appends a
    row.
    """
    monkeypatch.setattr(gpu_accept, "GRACE_S", 0.5)
    monkeypatch.setattr(gpu_accept, "LEAST_S", 0.5)
    monkeypatch.setattr(gpu_accept, "RESERVE_S", 0.0)

    def make(budget: float = 60.0, share: float = 20.0, **programs: str) -> gpu_accept.Acceptance:
        run = gpu_accept.Acceptance(
            tmp_path / "out",
            time.monotonic() + budget,
            rehearse=True,
            resume=False,
            steps=tuple(gpu_accept.Step(name, share) for name in programs),
            budget_s=budget,
            code="c",
            created="now",
            outcomes={name: gpu_accept.Outcome() for name in programs},
        )
        run.out.mkdir()

        def command(step: gpu_accept.Step, _limit_s: float, _scratch: Path) -> list[str]:
            row = {"step": step.name, "device": "d", "code": "c", "status": "ok"}
            prelude = (
                "import time, subprocess, sys, os\nfrom pathlib import Path\n"
                "from gpu_acceptance.rows import append_row\n"
                f"PATH, FACTS = Path({str(run.rows_path)!r}), {row!r}\n"
                "def ROW(cell, **more): append_row(PATH, {**FACTS, 'cell': cell, **more})\n"
            )
            return [sys.executable, "-c", prelude + programs[step.name]]

        monkeypatch.setattr(run, "_command", command)
        return run

    return make


def statuses(run: gpu_accept.Acceptance) -> dict[str, str]:
    stored = json.loads((run.out / "accept.json").read_text())
    return {name: step["status"] for name, step in stored["steps"].items()}


def test_what_fails_or_hangs_is_a_line_and_the_rest_goes_on(
    accept: Callable[..., gpu_accept.Acceptance], capsys: pytest.CaptureFixture[str]
) -> None:
    run = accept(
        share=3.0,
        first="ROW('a', median_us=12.0)",
        broken="ROW('b'); raise ValueError('the reason')",
        crashes="os.kill(os.getpid(), 11)",
        hangs="ROW('c'); print('hanging', flush=True); time.sleep(60)",
        last="ROW('d', status='failed', error='wrong')",
    )
    run.run()
    assert statuses(run) == {
        "first": "done",
        "broken": "failed",
        "crashes": "failed",
        "hangs": "timeout",
        "last": "done",
    }
    assert [row["cell"] for row in read_rows(run.rows_path)] == ["a", "b", "c", "d"]
    stored = json.loads((run.out / "accept.json").read_text())
    assert stored["problems"] == [
        "step broken: failed exit 1: ValueError: the reason",
        "step crashes: failed died of SIGSEGV",
        "step hangs: timeout",
        "last: d: wrong",
    ]
    printed = capsys.readouterr().out
    assert (
        printed.index("first: a")
        < printed.index("broken: b")
        < printed.index("hangs: c")
        < printed.index("last: d")
    )
    assert "hanging" in (run.out / "steps.log").read_text()


@pytest.mark.parametrize(
    ("ends", "error"),
    [
        ("os.kill(os.getpid(), 11)", "died of SIGSEGV"),
        ("sys.exit(75)", "a kernel made the device useless to its process"),
    ],
)
def test_a_step_goes_on_behind_a_cell_that_ends_its_process(
    ends: str,
    error: str,
    accept: Callable[..., gpu_accept.Acceptance],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    cells = (
        "import json\nfrom gpu_acceptance.rows import under_way_path\n"
        "for cell in 'abcd':\n"
        "    if f'--skip={cell}' in sys.argv: continue\n"
        f"    path = under_way_path(Path({str(tmp_path / 'cache')!r}), 'crashes')\n"
        "    path.write_text(json.dumps([cell]))\n"
        f"    if cell in 'bd': {ends}\n"
        "    ROW(cell)\n"
    )
    run = accept(crashes=cells, last="ROW('e')")
    run.run()
    rows = [(row["cell"], row["status"]) for row in read_rows(run.rows_path)]
    assert rows == [("a", "ok"), ("b", "failed"), ("c", "ok"), ("d", "failed"), ("e", "ok")]
    assert statuses(run) == {"crashes": "failed", "last": "done"}
    assert run.outcomes["crashes"].error == error


def test_a_step_that_hangs_says_where(
    accept: Callable[..., gpu_accept.Acceptance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path))
    note = f"Path({str(tmp_path / 'under-way-hangs.json')!r}).write_text('[\"a kernel\"]')"
    run = accept(share=1.5, hangs=f"{note}; time.sleep(60)")
    run.run()
    outcome = run.outcomes["hangs"]
    assert (outcome.status, outcome.error) == ("timeout", "it was at a kernel")


@pytest.mark.exhaustive
def test_what_a_step_started_and_left_behind_ends_with_it(
    accept: Callable[..., gpu_accept.Acceptance],
) -> None:
    orphan = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)']);"
        " ROW(str(child.pid))\n"
    )
    run = accept(share=4.0, ends=orphan, hangs=orphan + "time.sleep(60)")
    run.run()
    for row in read_rows(run.rows_path):
        status = Path(f"/proc/{row['cell']}/status")
        deadline = time.monotonic() + 5
        while (
            status.exists()
            and "State:\tZ" not in status.read_text()
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert not status.exists() or "State:\tZ" in status.read_text()


def test_results_are_whole_after_each_step_and_steps_without_time_are_said(
    accept: Callable[..., gpu_accept.Acceptance],
) -> None:
    run = accept(budget=3.0, share=60.0, takes_all="ROW('a'); time.sleep(60)", too_late="ROW('b')")
    run.run()
    assert statuses(run) == {"takes_all": "timeout", "too_late": "no time"}
    assert "| too_late | no time |" in (run.out / "accept.md").read_text()


def test_a_rows_file_that_a_kill_cut_short_is_read_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"cell": "a"})
    path.write_bytes(path.read_bytes() + b'{"cell": "b", "med')
    assert [row["cell"] for row in read_rows(path)] == ["a"]
    append_row(path, {"cell": "c"})
    assert [row["cell"] for row in read_rows(path)] == ["a", "c"]
    assert latest_line_is_whole(path)


def test_the_last_row_of_a_cell_counts() -> None:
    rows = [
        {"step": "s", "cell": "a", "status": "failed"},
        {"step": "s", "cell": "b", "status": "ok"},
        {"step": "s", "cell": "a", "status": "ok"},
    ]
    assert gpu_accept.latest(rows) == [rows[2], rows[1]]


def real(out: Path, *more: str, steps: str = "ceilings,eager") -> list[str]:
    script = str(ROOT / "benchmarks" / "gpu_accept.py")
    return [
        sys.executable,
        script,
        "--out",
        str(out),
        "--rehearse",
        "--budget",
        "300",
        "--steps",
        steps,
        *more,
    ]


def killed(out: Path, how: signal.Signals, after_s: float, *more: str) -> int:
    """Run the real script and send it ``how``; its exit code."""
    environment = {**gpu_accept.environment(), "RESNEXT_CACHE_DIR": str(out.parent / "cache")}
    with subprocess.Popen(real(out, *more), env=environment, stdout=subprocess.DEVNULL) as process:
        time.sleep(after_s)
        process.send_signal(how)
        return process.wait(30)


def assert_whole(out: Path) -> None:
    """Everything on disk can be read, and no step goes on."""
    stored = json.loads((out / "accept.json").read_text())
    assert stored["steps"].keys() == {"ceilings", "eager"}
    assert (out / "accept.md").read_text().startswith("# GPU acceptance")
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} <= set(
        gpu_accept.RESULTS
    )
    deadline = time.monotonic() + 5
    while (left := steps_of(out)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def steps_of(out: Path) -> str:
    """Process ids of steps that write into ``out``."""
    found = subprocess.run(
        ["pgrep", "-f", f"--rows {out}/rows.jsonl"], capture_output=True, text=True, check=False
    )
    return found.stdout


@pytest.mark.exhaustive
def test_a_run_that_is_told_to_stop_writes_its_table_and_resume_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert killed(out, signal.SIGTERM, 9) == 128 + signal.SIGTERM
    assert_whole(out)
    kept = read_rows(out / "rows.jsonl")
    environment = {**gpu_accept.environment(), "RESNEXT_CACHE_DIR": str(tmp_path / "cache")}
    command = real(out, "--resume", steps="ceilings")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    rows = read_rows(out / "rows.jsonl")
    assert rows[: len(kept)] == kept
    measured = [row["cell"] for row in rows if row["step"] == "ceilings"]
    assert len(measured) == len(set(measured)) == 6  # nothing was measured twice
    assert len(list(out.iterdir())) <= len(gpu_accept.RESULTS) <= 6


@pytest.mark.exhaustive
def test_thirty_kills_at_random_leave_everything_whole_and_resume_ends_it(tmp_path: Path) -> None:
    out, rng = tmp_path / "out", random.Random(0)
    for _ in range(30):
        how = rng.choice([signal.SIGKILL, signal.SIGTERM])
        killed(out, how, rng.uniform(0.5, 12), "--resume")
        if (out / "accept.json").exists():
            assert_whole(out)
    environment = {**gpu_accept.environment(), "RESNEXT_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        real(out, "--resume"), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    cells = [(row["step"], row["cell"]) for row in read_rows(out / "rows.jsonl")]
    assert len(cells) == len(set(cells)) == 6 + 16


# What it lets pass.


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    before = torch.get_num_threads()

    def make(step: str = "eager", *, resume: bool = False) -> Bench:
        return Bench(
            step, tmp_path / "rows.jsonl", tmp_path / "cache", rehearse=True, resume=resume
        )

    yield make
    torch.set_num_threads(before)


def of(
    bench: Bench, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[], tuple[Forward, int, str]]:
    """A cell whose logits are changed."""

    def make() -> tuple[Forward, int, str]:
        forward, batch, precision = live(bench, 2, "fp32", "nchw")
        run = forward.run
        return Forward(lambda images: change(run(images)), forward.images), batch, precision

    return make


def nothing(logits: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
    """What a graph that writes nowhere leaves: the logits of the first run, whoever has overwritten
    them since.
    """
    kept.append(logits)
    return kept[0]


@pytest.mark.exhaustive
def test_wrong_nan_and_unwritten_outputs_fail_and_right_ones_pass(
    bench: Callable[..., Bench],
) -> None:
    kept: list[torch.Tensor] = []
    where = bench()
    cells: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "right": lambda logits: logits,
        "scaled": lambda logits: logits * 1.01,
        "rolled": lambda logits: logits.roll(1, 1),
        "nan": lambda logits: logits * float("nan"),
        "unwritten": lambda logits: nothing(logits, kept),
    }
    measure_group(where, {name: of(where, change) for name, change in cells.items()})
    found = {row["cell"]: row["status"] for row in read_rows(where.rows)}
    assert found == {
        "right": "ok",
        "scaled": "failed",
        "rolled": "failed",
        "nan": "failed",
        "unwritten": "failed",
    }


def test_a_cell_that_raises_is_a_row_with_the_first_line(bench: Callable[..., Bench]) -> None:
    def broken() -> tuple[Forward, int, str]:
        raise RuntimeError("\nno kernel for this\nand much more")

    where = bench()
    measure_group(where, {"broken": broken, "right": of(where, lambda logits: logits)})
    rows = {row["cell"]: row for row in read_rows(where.rows)}
    assert rows["broken"]["error"] == "RuntimeError: no kernel for this"
    assert rows["right"]["status"] == "ok"


@pytest.mark.exhaustive
def test_a_cell_that_cannot_be_compared_takes_no_other_with_it(bench: Callable[..., Bench]) -> None:
    where = bench()
    cells = {
        "right": of(where, lambda logits: logits),
        "odd": of(where, lambda logits: logits[:, :3]),
    }
    measure_group(where, {**cells, "also right": of(where, lambda logits: logits)})
    found = {row["cell"]: row["status"] for row in read_rows(where.rows)}
    assert found == {"right": "ok", "odd": "failed", "also right": "ok"}


def test_references_of_other_code_are_not_taken(bench: Callable[..., Bench]) -> None:
    first = bench()
    for path in (first.reference, first.cache.glob("reference-*"))[1]:
        path.write_bytes(b"no array")  # whatever this code left
    other = bench()
    other._code = "another"
    assert bool(torch.isfinite(other.reference).all())


def test_the_error_behind_an_error_is_told() -> None:
    error = RuntimeError("capture failed")
    error.__context__ = ValueError("the cause\nand more")
    assert (
        first_line(error) == "RuntimeError: capture failed (while handling ValueError: the cause)"
    )


def test_results_that_cannot_be_read_end_their_own_step_alone(
    accept: Callable[..., gpu_accept.Acceptance], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = accept(odd="ROW('a')", last="ROW('b')")

    def collect(step: gpu_accept.Step, _scratch: Path) -> None:
        if step.name == "odd":
            raise KeyError("rows")

    monkeypatch.setattr(run, "_collect", collect)
    run.run()
    assert statuses(run) == {"odd": "failed", "last": "done"}


def test_a_benchmark_row_that_a_resumed_run_measures_is_no_longer_a_problem(
    accept: Callable[..., gpu_accept.Acceptance], tmp_path: Path
) -> None:
    run, benchmark = accept(), gpu_accept.Step("benchmark", 60)

    def collect(status: str, timings: list[dict[str, Any]], reasons: list[str]) -> None:
        row = {"backend": "torch", "batch": 8, "parity": None, "status": status}
        row |= {"timings": timings, "reasons": reasons}
        (tmp_path / "run.json").write_text(json.dumps({"rows": [row]}))
        run._collect(benchmark, tmp_path)

    def failures() -> list[str]:
        rows = gpu_accept.latest(read_rows(run.rows_path))
        return [row["cell"] for row in rows if row["status"] == "failed"]

    collect("failed", [], ["not measured: out of time"])
    assert failures() == ["torch batch 8 host"]
    stats = {"median_ns": 1000, "images_per_s": 8e6}
    collect("valid", [{"boundary": name, "stats": stats} for name in ("host", "graph")], [])
    assert failures() == []


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, False),
        ({"status": "failed"}, True),
        ({"code": "other"}, True),
        ({"device": "another GPU"}, True),
        ({"step": "merged"}, True),
    ],
)
def test_resume_leaves_out_what_is_good_and_of_this_code_and_device_alone(
    change: dict[str, str], wanted: bool, bench: Callable[..., Bench]
) -> None:
    first = bench()
    row = {
        "step": "eager",
        "cell": "a",
        "status": "ok",
        "device": first.name,
        "code": code_digest(),
        **change,
    }
    append_row(first.rows, row)
    assert bench(resume=True).wants("a") == wanted
    assert bench().wants("a")


def test_every_prediction_is_of_a_cell_that_a_step_measures(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: dict[str, set[str]] = {}
    where = bench()
    where.rehearse = False

    def note(bench: Bench, cells: dict[str, object], **_: object) -> None:
        measured.setdefault(bench.step, set()).update(cells)

    def wants(cell: str) -> bool:
        measured.setdefault(where.step, set()).add(cell)
        return False

    monkeypatch.setattr(steps, "measure_group", note)
    monkeypatch.setattr(fused, "measure_group", note)
    monkeypatch.setattr(where, "wants", wants)
    monkeypatch.setattr(where, "config", VARIANTS["resnext50_32x4d"])
    monkeypatch.setattr(where, "weights", lambda: ResNeXt(device.SMALL).eval())
    for name in (
        "ceilings",
        "kernels",
        "fused",
        "autotune",
        "eager",
        "merged",
        "chunks",
        "compile",
    ):
        where.step = name
        steps.STEPS[name](where)
    missing = [
        (step, cell) for _, step, cell, _ in gpu_accept.PREDICTIONS if cell not in measured[step]
    ]
    assert missing == []
    assert len(measured["eager"]) >= 28


@pytest.mark.parametrize(("batch", "microseconds"), [(1, 35), (8, 177), (64, 1311)])
def test_the_floor_is_that_of_the_design(batch: int, microseconds: float) -> None:
    assert floor_us(VARIANTS["resnext50_32x4d"], batch, "fp16") == pytest.approx(
        microseconds, rel=0.05
    )


def test_every_step_has_something_that_runs_it() -> None:
    assert {step.name for step in gpu_accept.STEPS} == {*steps.STEPS, "benchmark", "tests"}


def test_tests_are_rows_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="tests.gpu.test_a" name="test_ok"/><testcase'
        ' classname="tests.gpu.test_a" name="test_bad"><failure'
        ' message="no&#10;more"/></testcase><testcase classname="tests.gpu.test_a"'
        ' name="test_off"><skipped message="no TensorRT"/></testcase><testcase time="9.1"/>'
        "</testsuite></testsuites>"  # the last was interrupted
    )
    assert gpu_accept.test_results(path) == [
        ("test_a::test_ok", "ok", ""),
        ("test_a::test_bad", "failed", "no"),
        ("test_a::test_off", "skipped", "no TensorRT"),
    ]
    path.write_text("<testsuites><testsuite>")
    assert gpu_accept.test_results(path) == []


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Skipped: TensorRT is not installed: pip install tensorrt", True),
        (
            (
                "TensorRT is not installed: pip install tensorrt; TensorRT-RTX does not take NVIDIA"
                " H100"
            ),
            True,
        ),
        ("no float8 on compute capability 7.5", False),
        ("can run", False),
    ],
)
def test_a_skip_that_no_backends_obstacle_accounts_for_fails_the_acceptance(
    reason: str, expected: bool, accept: Callable[..., gpu_accept.Acceptance]
) -> None:
    backends = {"trt": "TensorRT is not installed: pip install tensorrt", "torch": "can run"}
    rows: list[dict[str, Any]] = [
        {"step": "environment", "cell": "environment", "status": "ok", "backends": backends},
        {"step": "tests", "cell": "test_a::test_b", "status": "skipped", "error": reason},
    ]
    assert (gpu_accept.unexpected_skips(rows) == []) == expected
    run = accept()
    run.rehearse = False
    assert (run.problems(rows) == []) == expected


def test_every_row_has_as_many_columns_as_there_are_headings() -> None:
    bare = {"step": "s", "cell": "c", "status": "failed", "error": "a|b"}
    full = bare | {
        "median_us": 2.0,
        "floor_us": 1.0,
        "own_floor_us": 0.5,
        "cold_us": 3.0,
        "images_s": 5.0,
    }
    for row in (bare, full):
        assert len(gpu_accept.columns(row)) == len(gpu_accept._HEADS)
    assert gpu_accept.columns(full)[8:10] == ("50.0%", "25.0%")
    assert gpu_accept.columns(full | {"ratio": 2.0, "against": "cudnn"})[10] == "2.00x cudnn"
    assert gpu_accept.columns(bare)[-1] == "a/b"


def test_the_table_has_winners_and_failures_of_layers_and_leaves_the_rest_to_the_rows(
    accept: Callable[..., gpu_accept.Acceptance],
) -> None:
    row = {"step": "kernels", "status": "ok", "device": "d", "median_us": 1.0}
    rows = [
        {**row, "cell": "beaten"},
        {**row, "cell": "broken", "status": "failed", "error": "e"},
        {**row, "cell": "best", "choice": [16]},
    ]
    text = accept().markdown(rows)
    assert ("| beaten |" in text, "| broken |" in text, "| best |" in text) == (False, True, True)


def test_gates_are_those_of_the_toolkit() -> None:
    from resnext.verify.parity import gate_for

    for precision in ("fp32", "fp16", "bf16"):
        assert device.GATES[precision] == gate_for(precision).max_error
