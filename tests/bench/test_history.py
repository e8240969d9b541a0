"""`resnext-bench history`: a folder of runs, its index, its steps, its gate."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fakes.here import HERE, NOISE
from resnext.artifact.manifest import WeightsRecord
from resnext.errors import BadInput, UsageError
from resnext.runtimes.session import Boundary
from resnext_bench import History, Run, read_history, read_run
from resnext_bench.cli.bench import main
from resnext_bench.history.index import index_path, indexed
from resnext_bench.history.report import sparkline
from resnext_bench.record import Row
from resnext_bench.stats import timing_of

STORED = Path(__file__).parents[2] / "benchmarks" / "results"


def row(time_ms: float, *, boundary: Boundary = "host", rounds: int = 8, **facts: Any) -> Row:
    times = [[round(time_ms * 1e6) + index] * 3 for index in range(rounds)]
    timings = (timing_of(boundary, times, 8),) if rounds else ()
    default = {"backend": "torch", "batch": 8, "precision": "fp32", "status": "valid"}
    return Row(**{**default, "timings": timings, **facts})


def run(day: int, *rows: Row, **facts: Any) -> Run:
    default: dict[str, Any] = {
        "created": f"2026-{1 + day // 28:02}-{1 + day % 28:02}T00:00:00+00:00",
        "model": "resnext50_32x4d",
        "weights": WeightsRecord(source="seeded", sha256="a" * 64),
        "precision": "fp32",
        "duration_s": 1.0,
        "rounds": 8,
        "seed": 0,
        "threads": 2,
        "environment": HERE,
    }
    return Run(**{**default, **facts}, rows=rows)


def level(day: int, time_ms: float = 10.0) -> float:
    return time_ms * (1 + 0.01 * NOISE[day % 12])


def keep(folder: Path, runs: Sequence[Run]) -> Path:
    """Write ``runs`` as files that have settled."""
    folder.mkdir(parents=True, exist_ok=True)
    for day, each in enumerate(runs):
        path = folder / f"{day:02}.json"
        path.write_text(each.model_dump_json())
        os.utime(path, (1e9, 1e9))
    return folder


def stepped(folder: Path, count: int = 24, at: int = 12, ratio: float = 1.1, **facts: Any) -> Path:
    """Runs of one row, slower by ``ratio`` from the run ``at`` on."""
    times = [level(day) * (ratio if day >= at else 1) for day in range(count)]
    return keep(folder, [run(day, row(time), **facts) for day, time in enumerate(times)])


def history(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["history", *map(str, arguments)])


def gate(*arguments: str | Path) -> Result:
    return history("gate", *arguments)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- series and steps


def test_a_step_says_when_how_much_and_what_changed(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    new = HERE.model_copy(update={"packages": {**HERE.packages, "onnxruntime": "1.31"}})
    for day in range(12, 24):
        later = run(day, row(level(day, 11)), environment=new)
        (folder / f"{day:02}.json").write_text(later.model_dump_json())
    done = history(folder)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    title, headings, line, step, _ = done.stdout.splitlines()
    assert title == "a CPU, 2 cores: resnext50_32x4d, weights sha256 aaaaaaaaaaaa"
    assert headings.split() == [
        "row",
        "over",
        "time",
        "least",
        "ms",
        "most",
        "ms",
        "newest",
        "ms",
        "runs",
    ]
    name = "torch 2 threads batch 8 fp32 host"
    assert re.fullmatch(
        rf"{name}  [▁▂]{{12}}\|[▆▇]{{12}}     9\.950   11\.055     11\.039    24", line
    )
    assert step.startswith(f"step of {name}: +10.0 % (95 % interval +9.7 to +10.3 %), ")
    assert step.endswith(" ms, 2026-01-13 00:00, 11.json -> 12.json; onnxruntime 1.30 -> 1.31")


def test_it_fits_a_narrow_terminal_without_unicode(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    command = [sys.executable, "-m", "resnext_bench.cli.bench", "history", str(folder)]
    settings = {**os.environ, "COLUMNS": "60", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=settings, capture_output=True, check=True)
    lines = done.stdout.decode("latin-1").splitlines()
    assert max(map(len, lines)) <= 60
    assert "not shown: most, least, newest (wider terminal or JSON)" in lines
    assert re.search(r" [12]{12}\|[67]{12} ", lines[2])


def test_another_artifact_at_a_step_is_said(tmp_path: Path) -> None:
    times = [level(day, 10 if day < 8 else 12) for day in range(16)]
    digests = ["a" * 64 if day < 8 else "b" * 64 for day in range(16)]
    keep(
        tmp_path / "runs",
        [
            run(day, row(time, artifact_sha256=digest))
            for day, (time, digest) in enumerate(zip(times, digests, strict=True))
        ],
    )
    (series,) = read_history(tmp_path / "runs").series
    assert [step.same_file for step in series.steps] == [False]
    assert history(tmp_path / "runs").stdout.splitlines()[3].endswith("; another artifact")


def test_rows_of_one_name_on_unlike_machines_are_separate_series(tmp_path: Path) -> None:
    there = HERE.model_copy(update={"cpu": "another CPU"})
    keep(
        tmp_path,
        [
            run(0, row(10), row(20, batch=1)),
            run(1, row(11), environment=there),
            run(2, row(10), environment=HERE.model_copy(update={"physical_cores": 4})),
            run(3, row(10), model="resnext26_32x4d"),
            run(4, row(10), weights=WeightsRecord(source="seeded", sha256="b" * 64)),
            run(5, row(10), threads=1),
            run(6, row(10, boundary="graph"), row(10, streams=2), row(10, variant="int8")),
            run(7, row(10), row(20, batch=1), environment=HERE.model_copy(update={"python": "4"})),
        ],
    )
    outcome = read_history(tmp_path)
    assert outcome.runs == 8
    counts = [len(series.points) for series in outcome.series]
    assert sorted(counts) == [1] * 8 + [2, 2]
    joined = [series for series in outcome.series if len(series.points) == 2]
    assert [point.file for point in joined[0].points] == ["00.json", "07.json"]


@pytest.mark.parametrize(("threads", "counts"), [((2, 2), [3]), ((1, 2), [1, 1, 1])])
def test_runs_from_before_threads_were_recorded_join_the_only_number(
    tmp_path: Path, threads: tuple[int, int], counts: list[int]
) -> None:
    keep(tmp_path, [run(day, row(10), threads=each) for day, each in enumerate((None, *threads))])
    assert [len(series.points) for series in read_history(tmp_path).series] == counts


def test_a_series_is_in_order_of_time_whatever_the_names_and_time_zones(tmp_path: Path) -> None:
    moments = ("2026-01-02T01:00:00+02:00", "2026-01-01T00:00:00Z", "2026-01-01T12:00:00.5+00:00")
    keep(tmp_path, [run(0, row(10), created=each) for each in moments])
    (series,) = read_history(tmp_path).series
    assert [point.file for point in series.points] == ["01.json", "02.json", "00.json"]


def test_rows_that_are_not_valid_are_left_out_and_counted(tmp_path: Path) -> None:
    disturbed = timing_of("host", [[10**7] * 3] * 8, 8, range(8))
    keep(
        tmp_path,
        [
            run(0, row(10), row(0, rounds=0, status="failed", backend="ort-cpu")),
            run(1, row(10, status="invalid"), row(0, rounds=0, status="invalid")),
            run(2, row(10, timings=(disturbed,))),
            run(3, row(10)),
        ],
    )
    outcome = read_history(tmp_path)
    assert [len(series.points) for series in outcome.series] == [2]
    assert outcome.left_out == 4
    assert "left out: 4 rows that are not valid, or were disturbed" in outcome.text()


def test_a_run_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    keep(tmp_path, [run(0, row(10)), run(1, row(10))])
    (tmp_path / "copies").mkdir()
    shutil.copy(tmp_path / "01.json", tmp_path / "copies" / "01.json")
    outcome = read_history(tmp_path)
    assert (outcome.runs, len(outcome.series[0].points)) == (2, 2)


def test_the_kept_runs_of_this_repository_have_a_history() -> None:
    done = history(STORED)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(re.match(r"torch 2 threads batch 1 fp32 host +[▁-█]{3} .* 3$", x) for x in lines)
    assert any(x.startswith("NVIDIA H200; Intel(R) Xeon(R)") for x in lines)
    assert "left out: 3 JSON files that are no runs (2026-11-27-h100-acceptance.json, ...)" in lines
    assert gate(STORED).exit_code == 0
    assert re.search(r"^CANNOT TELL: \d+ series: a step takes 8 runs", gate(STORED).stdout, re.M)
    assert gate(STORED, "--strict").exit_code == 1


def test_a_sparkline_merges_neighbors_but_not_over_a_step() -> None:
    assert sparkline([1.0]) == sparkline([1.0], most=1) == "▁"
    assert sparkline([100, 120, 110]) == "▁▇▄"
    assert sparkline([100, 102, 100]) == "▁▂▁", "2 % are little"
    assert sparkline([10] * 50 + [20] * 50, [50], most=10) == "▁▁▁▁▁|▇▇▇▇▇"
    assert sparkline([10] * 5 + [20] * 5, [5], most=3) == "▁▁|▇▇"


def test_json_is_the_history(tmp_path: Path) -> None:
    done = history(stepped(tmp_path / "runs"), "--json", "-")
    assert History.model_validate_json(done.stdout) == read_history(tmp_path / "runs")
    assert done.stderr.startswith("a CPU, 2 cores")
    assert history(tmp_path / "runs", "--json", tmp_path / "out.json").exit_code == 0
    assert (tmp_path / "out.json").read_text() == done.stdout


# ---- gate


@pytest.mark.parametrize(
    ("ratio", "verdict", "code"),
    [(1.1, "SLOWER", 1), (0.9, "FASTER", 0), (1.0, "SAME", 0), (1.019, "CANNOT TELL", 0)],
)
def test_the_gate_judges_the_newest_level(
    tmp_path: Path, ratio: float, verdict: str, code: int
) -> None:
    done = gate(stepped(tmp_path / "runs", ratio=ratio))
    assert done.exit_code == code, done.output
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{verdict}: ")
    assert (done.stderr == "error: the verdict is SLOWER\n") == (code == 1)
    strict = verdict in ("SLOWER", "CANNOT TELL")
    assert gate(tmp_path / "runs", "--strict").exit_code == strict
    assert gate(tmp_path / "runs", "--margin", "50", "--strict").exit_code == 0


def test_a_step_before_the_window_is_accepted(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs", 24, at=12)
    assert gate(folder, "--window", "12").exit_code == 1
    done = gate(folder, "--window", "11")
    assert done.exit_code == 0
    assert done.stdout == "SAME: 1 of 1 series; no step in the newest 11 runs\n"


def test_a_slowdown_that_was_mended_passes_and_one_that_was_not_wholly_fails(
    tmp_path: Path,
) -> None:
    for name, last, code in (("mended", 10.0, 0), ("partly", 10.6, 1)):
        times = [level(day, 10 if day < 8 else 12 if day < 16 else last) for day in range(24)]
        folder = keep(tmp_path / name, [run(day, row(time)) for day, time in enumerate(times)])
        assert len(read_history(folder).series[0].steps) == 2
        assert gate(folder, "--strict").exit_code == code, name


def test_one_slow_run_is_no_step(tmp_path: Path) -> None:
    times = [level(day) * (1.5 if day in (9, 23) else 1) for day in range(24)]
    assert (
        gate(
            keep(tmp_path, [run(day, row(time)) for day, time in enumerate(times)]), "--strict"
        ).exit_code
        == 0
    )


def test_too_few_runs_say_how_many_more_it_takes(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs", 5, 3)
    done = gate(folder)
    assert done.exit_code == 0
    few = "a step takes 8 runs of a series, the longest of these has 5: 3 more"
    assert done.stdout == f"CANNOT TELL: 1 of 1 series; {few}\n"
    assert f"no step can be seen in 1 of 1 series; {few}" in history(folder).stdout
    strict = gate(folder, "--strict")
    assert (strict.exit_code, strict.stderr) == (1, "error: the verdict is CANNOT TELL\n")


def test_the_first_run_passes(tmp_path: Path) -> None:
    assert gate(keep(tmp_path, [run(0, row(10))])).exit_code == 0


def test_among_many_rows_a_weak_step_is_chance(tmp_path: Path) -> None:
    """Eight runs in two levels have p = 0.03 at best: enough for one row, not for forty."""
    names = [f"row{number}" for number in range(40)]

    def runs(slower: Sequence[str]) -> list[Run]:
        return [
            run(
                day,
                *(
                    row(
                        level(day + 3 * at, 11 if name in slower and day >= 4 else 10), variant=name
                    )
                    for at, name in enumerate(names)
                ),
            )
            for day in range(8)
        ]

    assert (
        gate(
            keep(
                tmp_path / "one", [run(day, *each.rows[:1]) for day, each in enumerate(runs(names))]
            )
        ).exit_code
        == 1
    )
    done = gate(keep(tmp_path / "many", runs(names[:1])))
    assert done.exit_code == 0, done.output
    assert "with 40 rows, one may be beyond the margin by chance" in done.stdout


def test_a_clear_step_in_one_of_many_rows_is_seen(tmp_path: Path) -> None:
    names = [f"row{number}" for number in range(60)]
    runs = [
        run(
            day,
            *(
                row(level(day + at, 11 if at == 7 and day >= 12 else 10), variant=name)
                for at, name in enumerate(names)
            ),
        )
        for day in range(24)
    ]
    done = gate(keep(tmp_path, runs))
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith(
        "SLOWER: 1 of 60 series, 59 SAME; torch row7 2 threads batch 8 fp32 host, a CPU, 2 cores: "
    )


def test_noise_does_not_fail_the_gate(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    runs = [
        run(
            day,
            *(
                row(10 * float(np.exp(random.normal(0, 0.01))), variant=str(number))
                for number in range(12)
            ),
        )
        for day in range(20)
    ]
    assert gate(keep(tmp_path, runs)).exit_code == 0


def cut(folder: Path) -> None:
    """Break the newest file."""
    path = folder / "23.json"
    path.write_text(path.read_text()[:100])


def future(folder: Path) -> None:
    (folder / "24.json").write_text('{"format_version": 99, "rows": []}')


def invalid(folder: Path) -> None:
    bad = row(10, status="invalid", reasons=("wrong output", "and more"))
    (folder / "24.json").write_text(run(24, bad).model_dump_json())


def failed(folder: Path) -> None:
    bad = row(0, rounds=0, status="failed", reasons=("no device",))
    (folder / "24.json").write_text(run(24, bad).model_dump_json())


def disturbed(folder: Path) -> None:
    timing = timing_of("host", [[10**7] * 3] * 8, 8, range(8))
    (folder / "24.json").write_text(run(24, row(10, timings=(timing,))).model_dump_json())


def absent(folder: Path) -> None:
    for day in (24, 25, 26):
        (folder / f"{day}.json").write_text(run(day, row(10, batch=1)).model_dump_json())


def empty(folder: Path) -> None:
    (folder / "24.json").write_text(run(24, complete=False).model_dump_json())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "23.json is not a stored run (format_version 1): "),
        (future, "its format_version is 99; read it with a newer toolkit"),
        (invalid, "not valid in the newest run: invalid: wrong output"),
        (failed, "not valid in the newest run: failed: no device"),
        (disturbed, "not valid in the newest run: disturbed in every round"),
        (absent, "not measured in the newest 3 runs"),
        (empty, "not measured in the newest run"),
    ],
)
def test_a_newest_run_that_cannot_be_judged_is_no_pass(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder, report = stepped(tmp_path / "runs", ratio=1.0), tmp_path / "gate.xml"
    assert gate(folder, "--strict").exit_code == 0
    spoil(folder)
    done = gate(folder, "--junit", report)
    assert done.exit_code == 0
    assert done.stdout.startswith("CANNOT TELL: ")
    assert words in done.stdout
    assert words in report.read_text().partition("<system-out>")[0]
    assert "failure" not in outcomes(report).values()
    strict = gate(folder, "--strict", "--junit", report)
    assert strict.exit_code == 1
    assert "error: the verdict is CANNOT TELL" in strict.stderr
    assert "failure" in outcomes(report).values()
    assert words in history(folder).stdout


def test_a_row_that_is_slower_stays_so_if_the_newest_run_has_none(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    failed(folder)
    done = gate(folder)
    assert done.exit_code == 1
    assert done.stdout.startswith("SLOWER: 1 of 1 series; ")
    assert "not valid in the newest run: failed: no device" in done.stdout


def test_another_machines_newer_run_makes_no_row_absent(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs", ratio=1.0)
    for day in range(24, 26):
        there = HERE.model_copy(update={"cpu": "another CPU"})
        (folder / f"{day}.json").write_text(run(day, row(10), environment=there).model_dump_json())
    verdicts = [each.verdict for each in read_history(folder).series]
    assert verdicts == ["SAME", "CANNOT TELL"]


def test_a_history_without_a_valid_row_is_no_pass(tmp_path: Path) -> None:
    folder = keep(tmp_path / "runs", [run(0, row(0, rounds=0, status="failed"))])
    assert gate(folder).stdout.splitlines()[0] == "CANNOT TELL: no row is valid"
    assert gate(folder, "--strict", "--junit", tmp_path / "gate.xml").exit_code == 1
    assert outcomes(tmp_path / "gate.xml") == {"rows": "failure"}


def test_the_gate_says_how_many_then_the_worst_first_under_their_machine(tmp_path: Path) -> None:
    ratios = {"same": 1.0, "faster": 0.8, "slow": 1.1, "unsure": 1.019, "slowest": 1.3}
    runs = [
        run(
            day,
            *(
                row(level(day) * (ratio if day >= 12 else 1), variant=name)
                for name, ratio in ratios.items()
            ),
        )
        for day in range(24)
    ]
    done = gate(keep(tmp_path / "runs", runs))
    first, title, *lines = done.stdout.splitlines()
    assert first.startswith(
        "SLOWER: 2 of 5 series, 1 CANNOT TELL, 1 FASTER, 1 SAME; worst: torch slowest 2 threads"
    )
    assert title == "a CPU, 2 cores: resnext50_32x4d, weights sha256 aaaaaaaaaaaa"
    assert [re.match(r"[A-Z ]+: torch \w+", line)[0] for line in lines] == [  # type: ignore[index]
        "SLOWER: torch slowest",
        "SLOWER: torch slow",
        "CANNOT TELL: torch unsure",
        "FASTER: torch faster",
    ]
    assert "a CPU" not in "".join(lines)


def test_two_steps_in_the_window_are_each_said_with_what_they_are(tmp_path: Path) -> None:
    times = [level(day) * (1.05 ** ((day >= 8) + (day >= 16))) for day in range(24)]
    folder = keep(tmp_path / "runs", [run(day, row(time)) for day, time in enumerate(times)])
    (line,) = gate(folder).stdout.splitlines()
    assert re.search(r"takes 10\.\d % more time than the level before these 2 steps \(95", line), (
        line
    )
    assert re.search(r"Newest step: \+[45]\.\d %, 2026-01-17 00:00, 15\.json -> 16\.json$", line), (
        line
    )


def test_runs_of_which_no_two_are_alike(tmp_path: Path) -> None:
    machines = (HERE, HERE.model_copy(update={"cpu": "another CPU"}))
    keep(tmp_path, [run(day, row(10), environment=each) for day, each in enumerate(machines)])
    unlike = "no two of the 2 runs are alike: processor: a CPU, then another CPU"
    done = gate(tmp_path)
    assert done.exit_code == 4
    assert done.stderr.startswith(f"error: {unlike}; repeat them on one machine")
    shown = history(tmp_path)
    assert shown.exit_code == 0
    assert unlike in shown.stdout.splitlines()


# ---- the index


def files_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a history of ``folder`` parses."""
    from resnext_bench.history import entries

    names: list[str] = []
    true = read_run

    def counted(path: Path) -> Run:
        names.append(path.name)
        return true(path)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "read_run", counted)
        read_history(folder)
    return sorted(names)


def test_only_new_and_changed_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keep(tmp_path / "runs", [run(day, row(10)) for day in range(3)])
    assert files_read(folder, monkeypatch) == ["00.json", "01.json", "02.json"]
    assert files_read(folder, monkeypatch) == []
    os.utime(folder / "00.json", (2e9, 2e9))  # touched, not changed
    assert files_read(folder, monkeypatch) == []
    (folder / "01.json").write_text(run(1, row(99)).model_dump_json())
    (folder / "02.json").unlink()
    assert files_read(folder, monkeypatch) == ["01.json"]
    (series,) = read_history(folder).series
    assert [round(point.median_ns / 1e6) for point in series.points] == [10, 99]


def test_a_change_within_the_clock_tick_of_the_last_look_is_seen(tmp_path: Path) -> None:
    folder = keep(tmp_path / "runs", [run(0, row(10))])
    path, other = folder / "00.json", run(0, row(20)).model_dump_json()
    path.write_text(run(0, row(10)).model_dump_json().ljust(len(other)))
    read_history(folder)
    status = path.stat()
    assert len(other) == status.st_size
    path.write_text(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert round(read_history(folder).series[0].points[0].median_ns / 1e6) == 20


def test_a_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keep(tmp_path / "runs", [run(0, row(10)), run(1, row(10))])
    from resnext_bench.history import entries, index

    def refuse(path: Path, *_: object) -> Any:
        raise BadInput(f"cannot read {path}: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(index, "sha256_of", lambda path: refuse(path))
        patch.setattr(entries, "read_run", refuse)
        with pytest.raises(
            BadInput, match="no stored runs; of 2 broken ones the first: cannot read"
        ):
            read_history(folder)
    assert read_history(folder).runs == 2


def no_sqlite(path: Path) -> None:
    path.write_text("not SQLite " * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def change_a_value(path: Path) -> None:
    """As a flipped bit would: still a sound SQLite file."""
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("UPDATE times SET median_ns = median_ns + 1")


def another_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("ALTER TABLE times ADD COLUMN colour TEXT")


def future_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as index:
        index.execute("PRAGMA user_version = 99")


def another_toolkit(path: Path) -> None:
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("UPDATE made SET toolkit = '0.0.1'")


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "file is not a database": no_sqlite,
    "it is empty": emptied,
    "malformed": truncate,
    "it is damaged": change_a_value,
    "it has other tables": another_schema,
    "its version is 99, not 2": future_version,
    "toolkit 0.0.1 made it": another_toolkit,
    "not a regular file": make_a_pipe,
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_or_old_index_is_made_again_with_one_note(tmp_path: Path, reason: str) -> None:
    folder = stepped(tmp_path / "runs")
    before = history(folder)
    path = index_path(folder)
    DAMAGES[reason](path)
    done = history(folder)
    assert (done.exit_code, done.stdout) == (0, before.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"note: the index {path} is made again from the files: ")
    assert reason in line
    again = history(folder)
    assert (again.stdout, again.stderr) == (before.stdout, "")


def test_an_index_that_is_a_folder_is_done_without(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    index_path(folder).mkdir(parents=True)
    done = history(folder)
    assert done.exit_code == 0
    again, kept = done.stderr.splitlines()
    assert "it is a folder" in again
    assert re.match(r"note: the index .* cannot be kept: ", kept)


def test_an_index_that_somebody_locked_is_read_all_the_same(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    history(folder)
    with closing(sqlite3.connect(index_path(folder))) as other:
        other.execute("BEGIN EXCLUSIVE")
        (folder / "00.json").unlink()
        done = history(folder)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.search(r" 23$", done.stdout, re.MULTILINE)


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    done = history(stepped(tmp_path / "runs"))
    assert done.exit_code == 0
    assert re.fullmatch(r"note: the index .* cannot be kept: Not a directory\n", done.stderr)


@pytest.mark.exhaustive
def test_processes_at_once_see_the_same(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    code = (
        "import sys; from resnext_bench import read_history\n"
        "for _ in range(3):\n"
        "    for path in sys.argv[2:]: open(path, 'ab').write(b' ')\n"
        "    notes = []\n"
        "    print(read_history(sys.argv[1], note=notes.append).runs, notes)\n"
    )
    paths = [str(path) for path in sorted(folder.iterdir())[:3]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), *paths], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs == ["24 []\n" * 3] * 2
    with indexed(folder, pytest.fail) as index:
        assert index.execute("SELECT count(*) FROM files").fetchone() == (24,)
    assert [path.name for path in index_path(folder).parent.iterdir()] == [index_path(folder).name]


# ---- bad input


def test_a_broken_file_is_one_note_and_not_the_end(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs", 16, 8)
    text = (folder / "00.json").read_text()
    planted = {
        "cut.json": text[:100],
        "nan.json": text.replace('"duration_s":1.0', '"duration_s":NaN'),
        "field.json": text.replace('"seed":0', '"seed":"0"'),
        "future.json": text.replace('"format_version":1', '"format_version":2'),
        "moment.json": text.replace("2026-01-01T00:00:00+00:00", "yesterday"),
        "early.json": text.replace("2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+12:00"),
        "batch.json": text.replace('"batch":8', f'"batch":{10**30}'),
        "empty.json": "",
    }
    for name, content in planted.items():
        assert content != text
        (folder / name).write_text(content)
    (folder / "link.json").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.json")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "manifest.json").write_text('{"format_version": 1, "file": "model.onnx"}')
    for name, median in (("negative.json", "-5.0"), ("huge.json", "1" + "0" * 400)):
        (folder / name).write_text(re.sub(r'"median_ns":[^,]*', f'"median_ns":{median}', text))
    done = history(folder)
    assert done.exit_code == 0, done.output
    outcome = read_history(folder)
    assert (outcome.runs, len(outcome.series[0].points)) == (18, 16)
    assert outcome.left_out == 2
    assert outcome.other == ("list.json", "manifest.json")
    names = [*planted, "link.json", "pipe.json"]
    assert len(outcome.broken) == len(names)
    for name in names:
        (line,) = (
            each for each in done.stdout.splitlines() if f"/{name} " in each or f"/{name}:" in each
        )
        assert line.startswith("left out: ")


def test_hidden_files_and_other_names_are_not_looked_at(tmp_path: Path) -> None:
    folder = keep(tmp_path / "runs", [run(0, row(10))])
    (folder / ".hidden.json").write_text("{")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.json").write_text("{")
    (folder / "notes.md").write_text("{")
    (folder / "round").symlink_to(folder)
    assert read_history(folder).broken == ()


def test_a_name_that_is_not_utf8_is_one_note(tmp_path: Path) -> None:
    folder = keep(tmp_path / "runs", [run(0, row(10))])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    done = history(folder)
    assert done.exit_code == 0
    assert done.stderr == "note: '\\udcff.json' is left out: its name is not UTF-8\n"


@pytest.mark.parametrize("command", [history, gate])
def test_a_folder_without_runs_is_refused(tmp_path: Path, command: Callable[..., Result]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in (
        ("missing", "cannot read .*/missing: No such file or directory"),
        ("file", "cannot read .*/file: Not a directory"),
        ("empty", ".*/empty has no stored runs; store runs there with --json, or import them"),
    ):
        done = command(tmp_path / name)
        assert done.exit_code == 4
        assert re.fullmatch(f"error: {message}\n", done.stderr), done.stderr


def test_the_margin_and_the_window_are_checked(tmp_path: Path) -> None:
    for settings in ({"margin": 0}, {"margin": 1.5}, {"window": 3}):
        with pytest.raises(UsageError):
            read_history(tmp_path, **settings)
    assert gate(tmp_path, "--window", "3").exit_code == 2


def test_a_second_folder_is_refused(tmp_path: Path) -> None:
    for command in (history, gate):
        done = command(tmp_path, tmp_path)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: Got unexpected extra argument")


# ---- import


def test_imported_runs_are_copied_once(tmp_path: Path) -> None:
    runs = keep(tmp_path / "elsewhere", [run(0, row(10)), run(1, row(10))])
    files = [f"--import={path}" for path in sorted(runs.iterdir())]
    done = history(tmp_path / "kept", *files)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert [re.fullmatch(r"(.*)-[0-9a-f]{12}\.json", name)[1] for name in names] == [  # type: ignore[index]
        "2026-01-01",
        "2026-01-02",
    ]
    assert done.stderr == "".join(f"imported {tmp_path}/kept/{name}\n" for name in names)
    assert history(tmp_path / "kept", *files).stderr == ""


def test_a_run_that_is_there_under_another_name_is_not_imported(tmp_path: Path) -> None:
    folder = keep(tmp_path / "kept" / "inside", [run(0, row(10))]).parent
    shutil.copy(folder / "inside" / "00.json", tmp_path / "again.json")
    done = history(folder, "--import", tmp_path / "again.json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["inside"]


@pytest.mark.parametrize("command", [history, gate])
def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Result]
) -> None:
    monkeypatch.chdir(keep(tmp_path / "runs", [run(0, row(10))]))
    done = command("")
    assert done.exit_code == 2
    assert "FOLDER is empty" in done.stderr
    assert command(".").exit_code == 0


def test_without_a_folder_the_runs_go_to_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (path,) = keep(tmp_path / "runs", [run(0, row(10))]).iterdir()
    assert history("--import", path).exit_code == 0
    assert len(list((tmp_path / "data" / "resnext-toolkit" / "history").iterdir())) == 1
    assert history().exit_code == gate().exit_code == 0


def test_nothing_is_imported_if_one_file_is_no_run(tmp_path: Path) -> None:
    (good,) = keep(tmp_path / "runs", [run(0, row(10))]).iterdir()
    for content, message in (
        ("{}", "is not a stored run"),
        (run(0, row(10), created="../../../x").model_dump_json(), "it was created '../../../x'"),
    ):
        (tmp_path / "bad.json").write_text(content)
        done = history(tmp_path / "kept", "--import", good, "--import", tmp_path / "bad.json")
        assert done.exit_code == 4
        assert message in done.stderr
        assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (good,) = keep(tmp_path / "runs", [run(0, row(10))]).iterdir()
    (tmp_path / "file").write_text("")
    done = history(tmp_path / "file", "--import", good)
    assert done.exit_code == 3
    assert re.fullmatch(
        r"error: cannot write .*: [A-Z][a-z ]+; choose another folder\n", done.stderr
    )


def test_the_history_is_json_that_others_read(tmp_path: Path) -> None:
    value = json.loads(history(stepped(tmp_path / "runs"), "--json", "-").stdout)
    assert value["series"][0]["steps"][0]["change"]["ratio"][0] == pytest.approx(1.1, abs=0.01)


# ---- the page


def test_the_page_has_every_series_and_step(tmp_path: Path) -> None:
    folder = stepped(tmp_path / "runs")
    (folder / "other.json").write_text("{}")
    done = history(folder, "--html", tmp_path / "h.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "h.html").read_text()
    assert page.count('class="chart gutter"') == 1
    assert page.count('class="limit step"') == 1
    assert page.count('class="interval s0"') == 24
    assert "! 1 of 1 rows slower in the newest 20 runs" in page
    assert '<td class="left">11.json</td><td class="left">12.json</td>' in page
    assert "1 JSON files that are no runs" in page
    assert page == read_history(folder).html()


def test_the_page_of_the_kept_runs_has_no_step_and_says_so() -> None:
    page = read_history(STORED).html()
    assert "✓ no row is slower" in page
    assert 'id="steps"' not in page
    assert len(page) < 300_000


def test_names_on_the_page_stay_text(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    cpu = HERE.model_copy(update={"cpu": hostile, "packages": {hostile: "1"}})
    folder = keep(
        tmp_path / "a",
        [
            run(
                day,
                row(10 + 5 * (day > 7), variant=hostile),
                environment=cpu if day > 7 else HERE.model_copy(update={"cpu": hostile}),
            )
            for day in range(16)
        ],
    )
    outcome = read_history(folder)
    assert [step.packages[hostile] for step in outcome.series[0].steps] == [(None, "1")]
    assert "<script>alert" not in outcome.html()
    assert "&lt;script&gt;alert" in outcome.html()


def test_the_page_of_many_runs_stays_small(tmp_path: Path) -> None:
    (series,) = read_history(stepped(tmp_path / "runs")).series
    many = series.model_copy(update={"points": series.points * 10})
    history = read_history(tmp_path / "runs").model_copy(update={"series": (many,) * 100})
    page = history.html()
    assert page.count('class="chart gutter"') == 100
    assert len(page) < 1_000_000


# ---- JUnit


def outcomes(path: Path) -> dict[str, str]:
    """The outcome of each test case by its name."""
    cases = ElementTree.parse(path).iter("testcase")
    return {case.attrib["name"]: case[0].tag if len(case) else "passed" for case in cases}


def test_the_gate_has_a_test_case_for_each_series(tmp_path: Path) -> None:
    rows = [
        run(
            day,
            row(level(day, 11 if day >= 12 else 10)),
            row(level(day + 5), variant="same"),
            *([row(level(day), variant="new")] if day > 20 else []),
        )
        for day in range(24)
    ]
    folder, report = keep(tmp_path / "runs", rows), tmp_path / "gate.xml"
    done = gate(folder, "--junit", report)
    assert done.exit_code == 1
    named = "torch {}2 threads batch 8 fp32 host"
    expected = {named.format(""): "failure", named.format("same "): "passed"}
    assert outcomes(report) == {**expected, named.format("new "): "skipped"}
    assert "the longest of these has 3: 5 more" in report.read_text()
    gate(folder, "--strict", "--junit", report)
    assert outcomes(report) == {**expected, named.format("new "): "failure"}


# ---- the documents


@pytest.mark.skipif(sys.version_info < (3, 11), reason="DuckDB 2 needs Python 3.11")
def test_the_query_of_the_guide_reads_the_runs_as_the_history_does() -> None:
    import duckdb

    guide = (Path(__file__).parents[2] / "docs" / "guides" / "history.md").read_text("utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    result = duckdb.sql(query.replace("runs/*.json", f"{STORED}/*.json"))
    assert result is not None
    assert result.columns[-2:] == ["ms", "percent"]
    rows = result.fetchall()
    names = ("backend", "variant", "batch", "precision", "boundary")
    series = read_history(STORED).series
    ours = [
        (*(getattr(each, name) for name in names), point.median_ns / 1e6)
        for each in series
        for point in each.points
    ]
    theirs = [(*row[2:7], row[-2]) for row in rows]
    assert sorted(theirs) == sorted(ours)
    # each but the first of a series has a change: those of the longest one, by hand
    (longest,) = (
        [point.median_ns for point in each.points]
        for each in series
        if (each.backend, each.batch, len(each.points)) == ("ort-cpu", 1, 3)
    )
    changes = [row[-1] for row in rows if row[2] == "ort-cpu" and row[4] == 1 and row[-1]]
    assert changes == pytest.approx(
        [100 * (longest[1] / longest[0] - 1), 100 * (longest[2] / longest[1] - 1)]
    )


def test_whatever_bit_of_the_index_flips_the_history_is_the_same(tmp_path: Path) -> None:
    folder = keep(tmp_path / "runs", [run(day, row(10)) for day in range(2)])
    before = read_history(folder)
    path = index_path(folder)
    sound = path.read_bytes()
    random, notes = np.random.default_rng(0), 0
    for place in random.integers(0, 8 * len(sound), 60):
        changed = bytearray(sound)
        changed[place // 8] ^= 1 << (place % 8)
        path.write_bytes(changed)
        seen: list[str] = []
        assert read_history(folder, note=seen.append) == before
        notes += len(seen)
    assert notes
