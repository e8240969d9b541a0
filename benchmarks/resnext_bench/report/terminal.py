"""A run on a terminal, or as plain text: the verdict first, then the table, then what to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from resnext_bench.record import RunRecord

from . import grid
from .columns import DROPPED_FIRST, boundary, columns, headings, lines
from .explanation import explanation
from .first_line import fastest, verdict
from .grid import UNLIMITED, draw, printed, wrapped
from .sections import machine, measuring, sections, title

if TYPE_CHECKING:
    from rich.console import Console

#: Width of a terminal from which on a sparkline has a character for each of up to 24 rounds.
_WIDE = 120
_MOST_ROUNDS = 12
#: Lines that explain what stands above them.
_MOST_LINES = 3


def text(run: RunRecord, width: int = UNLIMITED, *, explain: bool = False) -> str:
    """The run as plain text: verdict, table, reasons and caveats.

    Args:
        run: with its rows.
        width: columns of the screen; unlimited by default, then every column of the table is shown
            and every remark is one line.
        explain: add the meaning of everything.
    """
    return printed(lambda console: show(run, console, explain=explain), width)


def show(
    run: RunRecord,
    console: Console,
    *,
    explain: bool = False,
    spell: Callable[[str], str] = str,
) -> None:
    """Print ``run``.

    Args:
        run: with its rows.
        console: the screen; its width decides which columns are shown.
        explain: print the meaning of everything below, instead of at most three lines.
        spell: turns fields in backticks into what the reader knows.
    """

    def say(line: str, style: str = "") -> None:
        grid.say(spell(line), console, style)

    say(str(verdict(run)))
    console.print()
    boundaries = dict.fromkeys(boundary(timing) for row in run.rows for timing in row.timings)
    same = f", {next(iter(boundaries))} times" if len(boundaries) == 1 else ""
    say(f"{title(run)}{same}")
    say(machine(run))
    console.print()
    kept, dropped = _table(run, console, several=len(boundaries) > 1)
    console.print()
    every = sections(run)
    for section in every:
        if section.heading in _PLAIN:
            show_lines(section.lines, console, spell)
    for line in measuring(run):
        say(line)
    if run.reused and not explain:
        say(f"reused from the cache: {_counted(len(run.reused), 'artifact')}")
    for section in every:
        if section.heading not in _PLAIN:
            console.print()
            say(section.heading, "bold")
            for line in section.lines:
                if section.aligned:
                    console.print(grid.shown(line, console), soft_wrap=True)
                else:
                    say(line)
    if explain or any(section.heading not in _PLAIN for section in every):
        console.print()
    show_lines(explanation(run) if explain else _short(kept, dropped, console), console, spell)


def show_lines(lines: Sequence[str], console: Console, spell: Callable[[str], str] = str) -> None:
    """Print ``lines``, wrapped; those in capitals are headings."""
    for line in lines:
        grid.say(spell(line), console, "bold" if line.isupper() else "")


#: Sections whose lines say by themselves what they are.
_PLAIN = ("Not valid", "Warnings")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def _table(run: RunRecord, console: Console, *, several: bool) -> tuple[list[str], list[str]]:
    """Print the table; returns the headings of its columns, and of those that did not fit."""
    most = _MOST_ROUNDS if console.width < _WIDE else 2 * _MOST_ROUNDS
    first = fastest(run)
    cells = [
        (index in first, line)
        for index, row in enumerate(run.rows)
        for line in lines(row, run, most)
    ]
    return draw(
        headings(run),
        [line for _, line in cells],
        console,
        left=[column.heading for column in columns(run) if column.left],
        folded="backend",
        dropped_first=[each for each in DROPPED_FIRST if not (several and each == "time")],
        bold=[index for index, (stressed, _) in enumerate(cells) if stressed],
    )


def _short(kept: list[str], dropped: list[str], console: Console) -> list[str]:
    """At most three lines on a screen of 60 columns or more: what is not shown, and what is not
    plain.
    """
    texts = [text for heading, text in _NOT_PLAIN.items() if heading in kept]
    legend = " ".join([*texts, "More: `explain`"])
    if not dropped:
        return [legend]
    names = ", ".join(heading.removesuffix(" ms").removesuffix(" MB") for heading in dropped)
    texts = [
        *(f"not shown: {names} ({how})" for how in _HOW_TO_SEE),
        f"{len(dropped)} columns are not shown ({_HOW_TO_SEE[0]})",
    ]
    fits = {text: len(wrapped(text, console)) for text in texts}
    most = min(_MOST_LINES - 1, *(fits[text] for text in texts[:2]))
    return [next(text for text in texts if fits[text] <= most or text is texts[-1]), legend]


#: Columns whose heading does not say enough.
_NOT_PLAIN = {
    "±": "±: half the 95 % interval.",
    "rounds": "rounds: low is fast, × disturbed.",
}
_HOW_TO_SEE = ("wider terminal, `markdown` or `json`", "`markdown`")
