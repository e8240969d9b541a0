"""`resnext-bench compare`: two stored runs, row by row."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import junit_schema
from fakes.here import HERE, NOISE
from resnext.artifact.manifest import WeightsRecord
from resnext.errors import BadInput, UsageError
from resnext.runtimes.session import Boundary
from resnext_bench import Comparison, Run, compare_runs
from resnext_bench.cli.bench import main
from resnext_bench.comparison.packages import upgrades
from resnext_bench.control import Control
from resnext_bench.record import Row
from resnext_bench.stats import timing_of

STORED = Path(__file__).parents[2] / "benchmarks" / "results"


def row(
    center: float,
    rounds: int = 12,
    *,
    scale: float = 0.002,
    boundary: Boundary = "host",
    disturbed: Sequence[int] = (),
    **facts: Any,
) -> Row:
    times = [
        [round(center * 1e6 * math.exp(scale * NOISE[index % 12] * (1 + index / 1e3)))] * 3
        for index in range(rounds)
    ]
    for index in disturbed:
        times[index] = [round(center * 9e6)] * 3
    default = {"backend": "torch", "batch": 8, "precision": "fp32", "status": "valid"}
    timings = (timing_of(boundary, times, 8, disturbed),) if rounds else ()
    return Row(**{**default, "timings": timings, **facts})


def run(*rows: Row, **facts: Any) -> Run:
    default: dict[str, Any] = {
        "created": "2026-11-27T00:00:00+00:00",
        "model": "resnext50_32x4d",
        "weights": WeightsRecord(source="seeded", sha256="a" * 64),
        "precision": "fp32",
        "duration_s": 1.0,
        "rounds": 12,
        "seed": 0,
        "threads": 2,
        "environment": HERE,
    }
    return Run(**{**default, **facts}, rows=rows)


def write(folder: Path, *runs: Run) -> list[str]:
    paths = []
    for name, each in zip(("base.json", "new.json"), runs, strict=True):
        (folder / name).write_text(each.model_dump_json())
        paths.append(str(folder / name))
    return paths


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


@pytest.mark.parametrize(
    ("center", "verdict", "code"),
    [(1.2, "SLOWER", 1), (0.8, "FASTER", 0), (1.0, "SAME", 0), (1.0195, "CANNOT TELL", 0)],
)
def test_the_verdict_and_its_exit_code(
    tmp_path: Path, center: float, verdict: str, code: int
) -> None:
    paths = write(tmp_path, run(row(1.0)), run(row(center)))
    done = compare(*paths)
    assert done.exit_code == code, done.output
    assert done.stdout.startswith(f"{verdict}: ")
    assert done.stdout.splitlines()[3].endswith(verdict)
    assert (done.stderr == "error: the verdict is SLOWER\n") == (code == 1)
    assert compare(*paths, "--strict").exit_code == (verdict in ("SLOWER", "CANNOT TELL"))
    assert compare(*paths, "--margin", "50", "--strict").exit_code == 0


def test_a_run_against_itself_is_the_same(tmp_path: Path) -> None:
    path, _ = write(tmp_path, run(row(1.0)), run(row(1.0)))
    assert "SAME" in compare(path, path, "--strict").stdout


def test_rows_are_matched_and_the_others_are_listed() -> None:
    base = run(
        row(1.0),
        row(1.0, batch=1),
        row(1.0, backend="ort-cpu"),
        row(1.0, 0, backend="openvino", status="failed"),
        row(1.0, variant="int8", precision="int8"),
    )
    new = run(
        row(1.0, backend="ort-cpu", status="invalid", reasons=("wrong",)),
        row(1.0),
        row(1.0, backend="openvino"),
        row(1.0, variant="int8", precision="fp32"),
    )
    outcome = compare_runs(base, new)
    assert [str(each) for each in outcome.rows] == ["torch batch 8 host"]
    assert outcome.skipped == (
        "torch batch 1 host: missing in the new run",
        "openvino batch 8 host: failed in the base run",
        "torch int8 batch 8 host: missing in the new run",
        "torch int8 batch 8 host: missing in the base run",
    )
    assert [str(each) for each in outcome.lost] == [
        "ort-cpu batch 8 host: invalid in the new run: wrong"
    ]
    assert outcome.text().startswith(
        "INVALID: 1 of 2 rows, 1 SAME; ort-cpu batch 8 host: invalid in the new run: wrong\n"
    )


@pytest.mark.parametrize("boundaries", [("host",), ("graph", "host")])
@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"status": "invalid", "reasons": ("wrong output",)}, "INVALID: invalid: wrong output"),
        ({"status": "failed", "rounds": 0, "reasons": ("died",)}, "FAILED: failed: died"),
    ],
)
def test_a_row_that_is_no_longer_valid_does_not_pass(
    tmp_path: Path, boundaries: tuple[Boundary, ...], facts: dict[str, Any], words: str
) -> None:
    timings = tuple(row(1.0, boundary=each).timings[0] for each in boundaries)
    default: dict[str, Any] = {} if facts.get("rounds") == 0 else {"timings": timings}
    rows = [row(1.0, batch=batch) for batch in (1, 2)]
    base = run(*rows, row(1.0, timings=timings))
    paths = write(tmp_path, base, run(*rows, row(1.0, **default, **facts)))
    word, _, reason = words.partition(": ")
    status, _, cause = reason.partition(": ")
    for strict in ((), ("--strict",)):
        done = compare(*paths, *strict, "--junit", str(tmp_path / "junit.xml"))
        assert done.exit_code == 1
        number = len(boundaries)
        assert done.stdout.startswith(
            f"{word}: {number} of {2 + number} rows, 2 SAME; torch batch 8"
        )
        assert f"batch 8 host: {status} in the new run: {cause}" in done.stdout
        assert "valid in the base run did not pass in the new one" in done.stderr
        cases = ElementTree.parse(tmp_path / "junit.xml").iter("failure")
        assert [case.get("type") for case in cases] == [status] * number


def test_an_unfinished_run_is_said() -> None:
    outcome = compare_runs(run(row(1.0)), run(row(1.0), complete=False))
    assert "the new run is unfinished: rows that it has not measured" in outcome.text()


def test_the_lines_have_the_worst_first() -> None:
    times = {1: 1.0, 2: 0.8, 3: 1.0195, 4: 1.1, 5: 1.3}
    base, new = (
        run(*(row(time if side else 1.0, batch=batch) for batch, time in times.items()))
        for side in (0, 1)
    )
    outcome = compare_runs(base, new)
    lines = outcome.markdown().splitlines()
    assert [line[:15] for line in lines if line.startswith("- torch batch")] == [
        f"- torch batch {batch}" for batch in (5, 4, 3, 2)
    ]
    assert "; torch batch 5 host: new takes" in outcome.text().splitlines()[0]


def test_boundaries_are_never_compared() -> None:
    with pytest.raises(BadInput, match="no row in common"):
        compare_runs(run(row(1.0, boundary="graph")), run(row(1.0)), allow_environment=True)


def test_rows_of_a_sweep_are_matched_by_threads_and_streams() -> None:
    def sweep(first: float, second: float) -> Run:
        rows = (row(first, threads=1), row(second, threads=2), row(1.0, threads=2, streams=2))
        return run(*rows, threads=None)

    outcome = compare_runs(sweep(1.0, 0.5), sweep(1.2, 0.5))
    assert [(str(each), each.change.verdict) for each in outcome.rows] == [
        ("torch 1 thread batch 8 host", "SLOWER"),
        ("torch 2 threads batch 8 host", "SAME"),
        ("torch 2 threads, 2 streams batch 8 host", "SAME"),
    ]
    assert "torch 2 threads, 2 streams" in outcome.text()
    assert compare_runs(run(row(1.0), threads=None), run(row(1.0, threads=2))).rows  # an old file


def test_disturbed_rounds_do_not_count() -> None:
    many = (0, 2, 3, 5)
    outcome = compare_runs(run(row(1.0)), run(row(1.0, 24, disturbed=many)))
    assert outcome.rows[0].rounds == (12, 20)
    assert outcome.rows[0].change.verdict == "SAME"


def test_a_noisy_control_has_no_verdict() -> None:
    control = Control(
        backend="torch",
        batch=8,
        boundary="host",
        rounds_ns=((1,),),
        ratio=(1.0, 0.95, 1.05),
        limit=0.01,
    )
    (loud,) = compare_runs(run(row(1.0)), run(row(1.2), control=control)).rows
    assert loud.change.verdict == "CANNOT TELL"
    assert loud.change.reason == "the A/A control of the new run is too noisy"
    calm = control.model_copy(update={"ratio": (1.0, 0.995, 1.005)})
    (quiet,) = compare_runs(run(row(1.0), control=calm), run(row(1.2), control=calm)).rows
    assert quiet.change.verdict == "SLOWER"


def test_one_row_of_many_needs_stronger_evidence() -> None:
    """Beyond the margin by itself, within what chance gives among twenty."""
    rows = [row(1.0, batch=batch) for batch in range(1, 21)]
    beyond = row(1.0255, scale=0.012, batch=99)
    alone = compare_runs(run(row(1.0, scale=0.012, batch=99)), run(beyond)).rows[0].change
    assert alone.verdict == "SLOWER"
    assert 0.0025 < alone.p_value < 0.05
    base, new = run(row(1.0, scale=0.012, batch=99), *rows), run(beyond, *rows)
    first, *others = (each.change for each in compare_runs(base, new).rows)
    assert first.verdict == "CANNOT TELL"
    assert "by chance" in first.reason
    assert {change.verdict for change in others} == {"SAME"}


def test_few_or_no_rounds_cannot_tell_and_very_many_can() -> None:
    for rounds in (1, 5, 7):
        (few,) = compare_runs(run(row(1.0, rounds)), run(row(1.5, rounds))).rows
        assert few.change.verdict == "CANNOT TELL"
        assert few.change.more == 8 - rounds
    empty = timing_of("host", [[1]], 8).model_copy(update={"rounds_ns": ()})
    (none,) = compare_runs(run(row(1.0, timings=(empty,))), run(row(1.0))).rows
    assert (none.change.verdict, none.change.more) == ("CANNOT TELL", 8)
    (many,) = compare_runs(run(row(1.0, 3000)), run(row(1.1, 3000))).rows
    assert many.change.verdict == "SLOWER"
    assert many.rounds == (3000, 3000)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"environment": HERE.model_copy(update={"cpu": "another"})}, "processor: a CPU, then"),
        ({"environment": HERE.model_copy(update={"physical_cores": 4})}, "cores: 2, then 4"),
        ({"threads": 1}, "threads: 2, then 1"),
        ({"model": None}, "model: resnext50_32x4d, then custom"),
        ({"weights": WeightsRecord(source="x", sha256="b" * 64)}, "weights: sha256 aaaaaaaaaaaa"),
    ],
)
def test_unlike_runs_are_refused_unless_allowed(
    tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    paths = write(tmp_path, run(row(1.0)), run(row(1.0), **facts))
    done = compare(*paths)
    assert done.exit_code == 4
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: the runs are unlike: {words}")
    assert done.stderr.endswith("or set --allow-environment\n")
    allowed = compare(*paths, "--allow-environment")
    assert allowed.exit_code == 0
    assert f"the runs are unlike: {words}" in allowed.stdout


@pytest.mark.parametrize("width", ["60", "80"])
def test_a_narrow_terminal_has_the_ratio_and_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    rows = [row(1.0, batch=batch, variant="merged-groups") for batch in (1, 8, 64)]
    slower = row(1.2, batch=8, variant="merged-groups")
    done = compare(*write(tmp_path, run(*rows), run(rows[0], slower, rows[2])))
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= int(width)
    assert lines[0].startswith("SLOWER: 1 of 3 rows, 2 SAME; torch merged-groups batch 8")
    (heading,) = [line.split("  ") for line in lines if line.startswith("backend")]
    assert {"new/base", "95 % interval", "verdict"} <= {each.strip() for each in heading}
    said = " ".join(done.stdout.split())
    assert said.count("batch 8 host: new takes") == 1  # not once more under the table


def test_upgraded_packages_are_named_and_no_obstacle() -> None:
    newer = HERE.model_copy(update={"packages": {"onnxruntime": "1.31", "openvino": "2026"}})
    outcome = compare_runs(run(row(1.0)), run(row(1.0), environment=newer))
    line = "packages, base -> new: onnxruntime 1.30 -> 1.31, openvino absent -> 2026"
    assert f"{line}, torch 2.11 -> absent" in outcome.text()


def test_the_build_that_an_imported_library_adds_is_no_upgrade() -> None:
    installed, imported = {"openvino": "2026.4.1"}, {"openvino": "2026.4.1-22982-releases/2026/4"}
    assert upgrades(installed, imported) == {}
    assert upgrades(installed, {"openvino": "2026.4.2-1"}) != {}


def test_json_and_markdown(tmp_path: Path) -> None:
    paths = write(tmp_path, run(row(1.0)), run(row(1.3, artifact_sha256="c" * 64)))
    report = tmp_path / "report.md"
    done = compare(*paths, "--json", "-", "--markdown", str(report))
    assert done.exit_code == 1
    stored = Comparison.model_validate_json(done.stdout, strict=True)
    assert stored == compare_runs(*paths)
    assert stored.rows[0].same_file is False
    assert report.read_text() == stored.markdown()
    assert "| torch | 8 | host | 1.000 | 1.300 | 1.300 |" in stored.markdown()
    assert compare(*paths, "--json", "x", "--markdown", "x").exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "is not a stored run"),
        (
            b'{"format_version": 2, "rows": []}',
            "is not a stored run (format_version 1), its format_version is 2; read it with a newer",
        ),
        (b"\xff\xfe", "is not a stored run"),
        (b'{"rows": []}', "is not a stored run (format_version 1): "),
    ],
)
def test_a_damaged_or_newer_file_is_one_line(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    good, bad = write(tmp_path, run(row(1.0)), run(row(1.0)))
    Path(bad).unlink()
    if content is not None:
        Path(bad).write_bytes(content)
    for paths in ((good, bad), (bad, good)):
        done = compare(*paths)
        assert done.exit_code == 4
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    good, bad = write(tmp_path, run(row(1.0)), run(row(1.0)))
    text = Path(good).read_bytes()
    for end in range(0, len(text), 97):
        Path(bad).write_bytes(text[:end])
        with pytest.raises(BadInput, match="is not a stored run"):
            compare_runs(good, bad)


def test_runs_without_a_row_in_common_and_a_wrong_margin_are_refused() -> None:
    with pytest.raises(BadInput, match="no row in common; measure the same"):
        compare_runs(run(row(1.0)), run(row(1.0, batch=1)))
    with pytest.raises(BadInput, match="no row in common"):
        compare_runs(run(), run())
    for margin in (0.0, -1.0, math.nan, 2.0):
        with pytest.raises(UsageError, match="margin"):
            compare_runs(run(row(1.0)), run(row(1.0)), margin=margin)


def test_runs_without_a_row_that_is_valid_in_both_do_not_pass(tmp_path: Path) -> None:
    paths = write(tmp_path, run(row(1.0)), run(row(1.0, status="invalid")))
    done = compare(*paths)
    assert done.exit_code == 1
    assert "no row is valid in both runs: torch batch 8 host: invalid in the new run" in done.stderr


def test_stored_runs_of_old_formats_can_be_compared() -> None:
    before, after = (
        STORED / f"2026-11-{day}-xeon-6-167-amx-2cores-resnext50-fp32.json" for day in (23, 27)
    )
    outcome = compare_runs(before, after)
    assert len(outcome.rows) == 6
    assert {each.change.verdict for each in outcome.rows} == {"CANNOT TELL"}  # five rounds each
    assert len(outcome.skipped) == 6
    assert "openvino" in outcome.packages
    with pytest.raises(BadInput, match="processor"):
        compare_runs(before, STORED / "2026-11-23-epyc-25-17-vnni-2cores-resnext50-fp32.json")
    assert json.loads(outcome.model_dump_json())["format_version"] == 1


@pytest.mark.parametrize("strict", [(), ("--strict",)])
@pytest.mark.parametrize(
    ("center", "outcome"),
    [(1.2, "failure"), (0.8, "passed"), (1.0, "passed"), (1.0195, "skipped")],
)
def test_a_report_has_a_failure_exactly_if_the_command_fails(
    tmp_path: Path, center: float, outcome: str, strict: tuple[str, ...]
) -> None:
    paths = write(tmp_path, run(row(1.0), row(1.0, batch=1)), run(row(center), row(1.0, batch=2)))
    done = compare(*paths, *strict, "--junit", str(tmp_path / "junit.xml"))
    text = (tmp_path / "junit.xml").read_text()
    assert junit_schema.problems(text) == []
    compared, *skipped = ElementTree.fromstring(text).iter("testcase")
    if strict and outcome == "skipped":
        outcome = "failure"
    assert [child.tag for child in compared] == ([] if outcome == "passed" else [outcome])
    assert (done.exit_code == 1) == (outcome == "failure")
    assert compared.get("name") == "torch batch 8 host"
    assert float(compared.get("time", "")) == pytest.approx(center / 1e3, rel=0.01)
    assert [(case.get("name"), case[0].get("message")) for case in skipped] == [
        ("torch batch 1 host", "missing in the new run"),
        ("torch batch 2 host", "missing in the base run"),
    ]


def test_runs_that_cannot_be_compared_are_an_error_in_the_report(tmp_path: Path) -> None:
    paths = write(tmp_path, run(row(1.0)), run(row(1.0), threads=1))
    assert compare(*paths, "--junit", str(tmp_path / "junit.xml")).exit_code == 4
    (error,) = ElementTree.parse(tmp_path / "junit.xml").iter("error")
    assert error.get("type") == "BadInput"
    assert "threads: 2, then 1" in error.get("message", "")
