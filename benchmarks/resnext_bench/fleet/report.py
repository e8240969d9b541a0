"""Merged results in words and as a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resnext.errors import printable
from resnext_bench.page.document import Section, document, paragraphs
from resnext_bench.page.document import table as drawn
from resnext_bench.page.markup import join
from resnext_bench.page.sections.table import section as rows_of
from resnext_bench.report import markdown as run_markdown
from resnext_bench.report import show as show_run
from resnext_bench.report import title, verdict
from resnext_bench.report.grid import draw, say

from .merged import Merged

if TYPE_CHECKING:
    from resnext_bench.report.grid import Screen

_HEADINGS = ("group", "what", "status", "machine or reason")


def show(merged: Merged, console: Screen, spell: Callable[[str], str] = str) -> None:
    """Print every table, then what became of every group."""
    for run in merged.tables:
        show_run(run, console, spell=spell)
        if apart := merged.apart(run):
            say(f"this table: {apart}", console)
        console.print()
    say(summary(merged), console, "bold" if merged.absent else "")
    draw(_HEADINGS, _cells(merged), console, left=_HEADINGS, folded=_HEADINGS[-1])


def summary(merged: Merged) -> str:
    """How much of the plan there is, in one line."""
    absent, kinds = merged.absent, len(merged.tables)
    done = len(merged.standings) - len(absent)
    tables = f"{kinds} table{'s' * (kinds != 1)}"
    line = f"{done} of {len(merged.standings)} groups measured, {tables}"
    return line + "".join(
        f"; {count} {status}"
        for status in ("FAILED", "LOST", "missing")
        if (count := sum(standing.status == status for standing in absent))
    )


def markdown(merged: Merged) -> str:
    """The report as a Markdown document."""
    parts = []
    for run in merged.tables:
        parts.append(run_markdown(run))
        if apart := merged.apart(run):
            parts.append(f"This table: {apart}.\n")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in _cells(merged)]
    return "\n".join(
        [
            *parts,
            "# Groups of the plan",
            "",
            f"{summary(merged)}.",
            "",
            f"| {' | '.join(_HEADINGS)} |",
            f"|{' --- |' * len(_HEADINGS)}",
            *(f"| {' | '.join(row)} |" for row in cells),
            "",
        ]
    )


def state(merged: Merged) -> dict[str, Any]:
    """What became of every group, and the verdict of every table; the runs have files."""
    return {
        "groups": [standing.model_dump() for standing in merged.standings],
        "tables": [
            {
                "machine": run.environment.title(),
                "packages": run.environment.packages,
                "verdict": verdict(run).word,
                "sentence": verdict(run).sentence,
                "rows": len(run.rows),
            }
            for run in merged.tables
        ],
    }


def page(merged: Merged) -> str:
    """The report as one file of HTML: a table for each kind of machine, and the groups."""
    sections = []
    for number, run in enumerate(merged.tables, 1):
        table = rows_of(run)
        if table is not None:
            name = run.environment.title()
            lines = [f"{verdict(run).word}: {verdict(run).sentence}"]
            if apart := merged.apart(run):
                lines.append(f"This table: {apart}.")
            lead = paragraphs(*lines)
            sections.append(Section(f"machine-{number}", name, join(lead, table.body)))
    groups = drawn("Groups", _HEADINGS, _cells(merged), left=range(len(_HEADINGS)))
    sections.append(Section("groups", "Groups of the plan", groups))
    named = dict.fromkeys(title(run) for run in merged.tables)
    return document("; ".join(named) or "No results", paragraphs(summary(merged)), sections)


def _cells(merged: Merged) -> list[list[str]]:
    return [
        [
            standing.name,
            printable(standing.title),
            standing.status,
            printable(standing.machine or standing.reason or "not run yet"),
        ]
        for standing in merged.standings
    ]
