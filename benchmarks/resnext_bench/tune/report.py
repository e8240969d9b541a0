"""A search on a terminal, or as plain text: the pick first, then the table, then why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from resnext.errors import printable
from resnext_bench.report import grid
from resnext_bench.report.grid import UNLIMITED, draw, printed

from . import fallen
from .columns import HEADINGS, LEFT, ON_FRONT, cells, dropped_first
from .commands import BUILD_TIMED, RUN, commands, on_front
from .known import KNOWN, priors
from .record import CandidateRecord, TuneRecord
from .standing import confirmed
from .verdict import race, verdict

if TYPE_CHECKING:
    from resnext_bench.report.grid import Screen

#: Columns whose heading does not say enough.
_NOT_PLAIN = {
    "front": f"{ON_FRONT}: on the Pareto front of those that met the gates.",
    "p99 ms": "p99: a bound, at 99 % confidence.",
    "time/pick": "time/pick: over the rounds that both were in.",
}


def text(record: TuneRecord, width: int = UNLIMITED) -> str:
    """The search as plain text.

    Args:
        record: with its candidates.
        width: columns of the screen; unlimited by default.
    """
    return printed(lambda console: show(record, console), width)


def show(record: TuneRecord, console: Screen, *, spell: Callable[[str], str] = str) -> None:
    """Print ``record``: verdict, measured candidates, why the others fell, and commands.

    Args:
        record: with its candidates.
        console: the screen; its width decides which columns are shown.
        spell: turns fields in backticks into what the reader knows.
    """

    def say(line: str, style: str = "") -> None:
        grid.say(spell(line), console, style)

    def section(heading: str, lines: Sequence[str]) -> None:
        if lines:
            console.print()
            say(heading, "bold")
            for line in lines:
                say(line)

    say(str(verdict(record)))
    console.print()
    say(title(record))
    say(record.environment.title())
    console.print()
    timed = measured(record)
    if timed:
        kept, dropped = draw(
            HEADINGS,
            [cells(one) for one in timed],
            console,
            left=LEFT,
            folded="candidate",
            dropped_first=dropped_first(record.goal),
            bold=[index for index, one in enumerate(timed) if one.name == record.pick],
        )
        console.print()
        for line in _legend(kept, dropped):
            say(line)
    else:
        say("no candidate was timed")
    say(race(record))
    section("In fresh processes", confirmed(record))
    if record.pick is None:
        section("Nearest misses", fallen.nearest(record))
    section(fallen.heading(record), fallen.reasons(record))
    section(KNOWN, priors(record))
    for one in on_front(record):
        known, picked = commands(record, one), one.name == record.pick
        if known:
            console.print()
            say(one.name if picked else f"also on the front: {one.name}", "bold")
        for purpose, command in known:
            if picked or purpose == BUILD_TIMED:
                say(f"{purpose}:")
            # Whole, whatever the width: a command that is cut into lines cannot be pasted.
            if picked or purpose != RUN:
                console.print(f"  {grid.shown(command, console)}", soft_wrap=True)


def title(record: TuneRecord) -> str:
    """One line: model, weights, goal."""
    model = record.model or "custom model"
    return printable(f"{model}, weights {record.weights.source}, for {record.goal}")


def measured(record: TuneRecord) -> list[CandidateRecord]:
    """The candidates that have times, the pick first."""
    timed = [one for one in record.candidates if one.p50_ns is not None]
    return sorted(timed, key=lambda one: one.name != record.pick)


def _legend(kept: Sequence[str], dropped: Sequence[str]) -> list[str]:
    meanings = [text for heading, text in _NOT_PLAIN.items() if heading in kept]
    lines = [" ".join(meanings)] if meanings else []
    if dropped:
        names = ", ".join(heading.removesuffix(" ms") for heading in dropped)
        lines.append(f"not shown: {names} (wider terminal, tune.html or tune.json)")
    return lines
