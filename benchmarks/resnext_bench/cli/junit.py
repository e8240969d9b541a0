"""The test cases of ``--junit``: of a run, a plan, two arms, two stored runs, and a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from resnext.cli.junit import JUnitCase
from resnext.timing.change import Verdict, describe
from resnext_bench.history.verdicts import sentence
from resnext_bench.plan import Case

if TYPE_CHECKING:
    from resnext_bench.ab.record import Duel
    from resnext_bench.comparison.record import ComparisonRecord
    from resnext_bench.fleet.merged import Merged
    from resnext_bench.history.record import HistoryRecord
    from resnext_bench.record import Row, RunRecord


def cases_of_run(run: RunRecord) -> Iterator[JUnitCase]:
    """A case for each row, with its median; an invalid row is a failure, a failed one an error."""
    model = run.model or ("ONNX file from elsewhere" if run.unknown else "custom model")
    for row in run.rows:
        threads = row.threads if run.threads is None else None
        name = str(Case(row.backend, row.batch, row.variant, threads, row.streams))
        yield _case_of_row(row, name, f"{run.environment.title()}.{model}")


def _case_of_row(row: Row, name: str, classname: str) -> JUnitCase:
    time_s = row.timings[-1].stats.median_ns / 1e9 if row.timings else 0.0
    if row.status == "valid":
        return JUnitCase(name, classname, time_s=time_s)
    if row.status == "failed":
        return JUnitCase(name, classname, "error", f"exit code {row.exit_code}", row.reasons)
    refused = [each for each in row.findings if each.severity == "refused"]
    reasons = [
        f"{each.code}: {'; '.join(filter(None, (each.message, each.hint)))}" for each in refused
    ]
    codes = ", ".join(dict.fromkeys(each.code for each in refused))
    return JUnitCase(name, classname, "failure", codes or "invalid", reasons or row.reasons, time_s)


def cases_of_merged(merged: Merged) -> Iterator[JUnitCase]:
    """A case for each row of every table, and one for each group without a run."""
    for run in merged.tables:
        yield from cases_of_run(run)
    for standing in merged.absent:
        name, reason = f"{standing.title} ({standing.name})", standing.reason or "not run yet"
        yield JUnitCase(name, "groups", "error", standing.status, [reason])


def cases_of_duel(duel: Duel, *, strict: bool) -> Iterator[JUnitCase]:
    """A case for the output of each arm, and one for the ratio of their times.

    Args:
        duel: the comparison.
        strict: CANNOT TELL is a failure.
    """
    classname = f"{duel.arms[0].environment.title()}.{duel.model or 'custom model'}"
    for arm in duel.arms:
        parity = arm.parity
        yield JUnitCase(
            f"output of {arm.name}, {arm.subject} on {arm.backend} batch {duel.batch}",
            classname,
            "passed" if parity.passed else "failure",
            "output",
            parity.failures,
            (arm.median_ns or 0.0) / 1e9,
        )
    first, second = duel.arms
    name = f"time of B, {second.subject}, against A, {first.subject}, batch {duel.batch}"
    unit = "pairs of processes" if duel.processes else "rounds"
    yield _case_of_verdict(
        duel.change.verdict,
        describe(duel.change, unit=unit),
        JUnitCase(name, classname, time_s=(second.median_ns or 0.0) / 1e9),
        strict=strict,
    )


def cases_of_comparison(comparison: ComparisonRecord, *, strict: bool) -> Iterator[JUnitCase]:
    """A case for each row that was compared, with its new median, a failure for each that is no
    longer valid, and a skipped one for each other that was not compared.

    Args:
        comparison: of two runs.
        strict: CANNOT TELL is a failure.
    """
    classname = f"{comparison.machine}.{comparison.model or 'custom model'}"
    for row in comparison.rows:
        case = JUnitCase(str(row), classname, time_s=row.new_ns / 1e9)
        words = describe(row.change, "base", "new")
        yield _case_of_verdict(row.change.verdict, words, case, strict=strict)
    for lost in comparison.lost:
        words = str(lost).removeprefix(f"{lost.name}: ")
        yield JUnitCase(lost.name, classname, "failure", lost.status, [words])
    for line in comparison.skipped:
        name, _, reason = line.rpartition(": ")
        yield JUnitCase(name, classname, "skipped", reasons=[reason])


def cases_of_history(history: HistoryRecord, *, strict: bool) -> Iterator[JUnitCase]:
    """A case for each series, with its newest time, and one for each broken file.

    Args:
        history: of a folder.
        strict: CANNOT TELL is a failure.
    """
    for series in history.series:
        classname = f"{series.machine}.{series.model}, weights {series.weights}"
        case = JUnitCase(str(series), classname, time_s=series.points[-1].median_ns / 1e9)
        words = sentence(series, history.window)
        yield _case_of_verdict(series.verdict, words, case, strict=strict)
    for number, problem in enumerate(history.broken, 1):
        case = JUnitCase(f"broken file {number}", "files that are left out")
        yield _case_of_verdict("CANNOT TELL", problem, case, strict=strict)
    if not history.series:
        case = JUnitCase("rows", "rows that are left out")
        yield _case_of_verdict("CANNOT TELL", "no row is valid", case, strict=strict)


def _case_of_verdict(verdict: Verdict, words: str, case: JUnitCase, *, strict: bool) -> JUnitCase:
    """``case`` with the outcome of ``verdict``: a failure if the exit code is 1 for it."""
    if verdict in ("FASTER", "SAME"):
        return case
    fails = verdict == "SLOWER" or strict
    outcome: Literal["failure", "skipped"] = "failure" if fails else "skipped"
    return replace(case, outcome=outcome, code=verdict, reasons=[words])
