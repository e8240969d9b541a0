"""A run on a terminal, or as plain text: the verdict first, then the table, then what to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from resnext_bench.record import RunRecord

from .columns import DROPPED_FIRST, NO_VALUE, boundary, columns, lines
from .explanation import explanation
from .grid import UNLIMITED, fitting, grid, marked, shown, wrapped
from .remarks import machine, measuring, sections, title
from .verdict import verdict

if TYPE_CHECKING:
    from rich.console import Console

#: Width of a terminal from which on a sparkline has a character for each of up to 24 rounds.
_WIDE = 120
_MOST_ROUNDS = 12
#: Lines that explain what stands above them.
_MOST_LINES = 3


def text(run: RunRecord, width: int = UNLIMITED) -> str:
    """The run as plain text: verdict, table, reasons and caveats.

    Args:
        run: with its rows.
        width: columns of the screen; unlimited by default, then every column of the table is shown
            and every remark is one line.
    """
    from rich.console import Console

    printed = StringIO()
    show(run, Console(file=printed, width=width, highlight=False, color_system=None, markup=False))
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())


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
    from rich.text import Text

    def say(line: str) -> None:
        for part in wrapped(spell(line), console):
            console.print(Text(part))

    head, *others = wrapped(spell(str(verdict(run))), console)
    console.print(marked(head))
    for line in others:
        console.print(Text(line))
    console.print()
    boundaries = dict.fromkeys(boundary(timing) for row in run.rows for timing in row.timings)
    same = f", {next(iter(boundaries))} times" if len(boundaries) == 1 else ""
    say(f"{title(run)}{same}")
    say(machine(run))
    console.print()
    headings, dropped = _table(run, console, several=len(boundaries) > 1)
    console.print()
    for section in sections(run):
        if section.heading not in _PLAIN:
            console.print(Text(shown(section.heading, console), style="bold"))
        for line in section.lines:
            if section.aligned:
                console.print(Text(shown(line, console)), soft_wrap=True)
            else:
                say(line)
    for line in measuring(run):
        say(line)
    if run.reused and not explain:
        say(f"reused from the cache: {_counted(len(run.reused), 'artifact')}")
    if explain:
        console.print()
    show_lines(explanation(run) if explain else _short(headings, dropped, console), console, spell)


def show_lines(lines: Sequence[str], console: Console, spell: Callable[[str], str] = str) -> None:
    """Print ``lines``, wrapped; those in capitals are headings."""
    from rich.text import Text

    for line in lines:
        style = "bold" if line.isupper() else ""
        for part in wrapped(spell(line), console) or [""]:
            console.print(Text(part, style=style))


#: Sections whose lines say by themselves what they are.
_PLAIN = ("Not valid", "Warnings")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def _table(run: RunRecord, console: Console, *, several: bool) -> tuple[list[str], list[str]]:
    """Print the table; returns the headings of its columns, and of those that did not fit."""
    most = _MOST_ROUNDS if console.width < _WIDE else 2 * _MOST_ROUNDS
    every = columns(run)
    headings = [column.heading for column in every]
    rows = [cells for row in run.rows for cells in lines(row, run, most)]
    kept, dropped = fitting(
        headings,
        rows,
        console.width,
        DROPPED_FIRST,
        keep=lambda heading: several and heading == "time",
        no_value=NO_VALUE,
    )
    shown_headings = [headings[index] for index in kept]
    console.print(
        grid(
            shown_headings,
            [[cells[index] for index in kept] for cells in rows],
            [column.heading for column in every if column.left],
            console,
            folded="backend",
        )
    )
    return shown_headings, dropped


def _short(headings: list[str], dropped: list[str], console: Console) -> list[str]:
    """At most three lines on a screen of 60 columns or more: what is not shown, and what is not
    plain.
    """
    texts = [text for heading, text in _NOT_PLAIN.items() if heading in headings]
    command = "resnext-bench " * (console.width >= UNLIMITED)  # in a log or from Python
    legend = " ".join([*texts, f"More: {command}--explain"])
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
_HOW_TO_SEE = ("wider terminal, --markdown or --json", "--markdown")
