"""`resnext-bench --junit`: a row is a test case, and fails exactly if the command does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import junit_schema
from bench.test_compare import row, run
from resnext.cli.junit import JUnit
from resnext_bench import read_run
from resnext_bench.cli.bench import exit_code
from resnext_bench.cli.junit import cases_of_run
from resnext_bench.record import FindingRecord

STORED = Path(__file__).parents[2] / "benchmarks" / "results"
FINDINGS = (
    FindingRecord(code="steady", severity="refused", message="it drifts", hint="set `rounds`"),
    FindingRecord(code="output", severity="refused", message="wrong", hint=""),
    FindingRecord(code="untrained", severity="warning", message="seeded", hint=""),
)


@pytest.mark.parametrize(
    ("facts", "outcome", "code", "reasons"),
    [
        ({"status": "valid"}, "passed", "", []),
        (
            {"status": "invalid", "findings": FINDINGS, "reasons": ("it drifts", "wrong")},
            "failure",
            "steady, output",
            ["steady: it drifts; set `rounds`", "output: wrong"],
        ),
        ({"status": "invalid", "reasons": ("old",)}, "failure", "invalid", ["old"]),
        (
            {"status": "failed", "rounds": 0, "exit_code": 3, "reasons": ("no device",)},
            "error",
            "exit code 3",
            ["no device"],
        ),
    ],
)
def test_a_row_is_a_case(
    facts: dict[str, Any], outcome: str, code: str, reasons: list[str]
) -> None:
    measured = run(row(1.5, **facts))
    (case,) = cases_of_run(measured)
    assert (case.outcome, case.code, list(case.reasons)) == (outcome, code, reasons)
    assert case.classname == "a CPU, 2 cores.resnext50_32x4d"
    assert case.name == "torch batch 8"
    assert case.time_s == (0.0 if facts.get("rounds") == 0 else pytest.approx(1.5e-3, rel=0.01))
    assert (exit_code(measured) == 0) == (outcome == "passed")


def test_rows_that_differ_in_anything_have_names_of_their_own() -> None:
    rows = [
        row(1.0, **facts)
        for facts in (
            {},
            {"batch": 1},
            {"variant": "int8"},
            {"backend": "ort"},
            {"threads": 1},
            {"threads": 1, "streams": 2},
        )
    ]
    names = [case.name for case in cases_of_run(run(*rows, threads=None))]
    assert len({*names}) == len(rows), names


@pytest.mark.parametrize(
    "path", [*STORED.glob("*-fp??.json"), *STORED.glob("*-int8.json")], ids=lambda path: path.stem
)
def test_every_kept_run_makes_a_report(path: Path) -> None:
    stored = read_run(path)
    junit = JUnit("resnext-bench")
    junit.add(cases_of_run(stored), stored.table())
    assert junit_schema.problems(junit.xml()) == []
    passed = [case.outcome == "passed" for case in junit.cases]
    assert passed == [each.status == "valid" for each in stored.rows]
