"""A table that fits the screen: with too many columns for its width, some are left out."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from resnext.errors import printable

from .rounds import BARS, DISTURBED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Width, in columns, of what is not a terminal: nothing is cut or wrapped.
UNLIMITED = 10_000
#: Styles by what they mean. Each has a background of its own, so that it is legible on a light and
#: on a dark terminal; all other text has the terminal's own color.
STYLES = {
    "good": "black on green",
    "doubtful": "black on yellow",
    "bad": "bright_white on red",
}
_GAP = 2
#: What a screen shows that has no Unicode.
_ASCII = str.maketrans({**dict(zip(BARS, "1234567", strict=True)), DISTURBED: "x", "±": "+-"})
_MARKS = {
    "VALID": "good",
    "FASTER": "good",
    "SAME": "good",
    "CANNOT TELL": "doubtful",
    "SLOWER": "bad",
    "INVALID": "bad",
    "FAILED": "bad",
}


def screen(*, to_stderr: bool = False) -> Console:
    """stdout or stderr: as wide as the terminal. What is not a terminal is as wide as ``COLUMNS``
    says, and unlimited without it.
    """
    import sys

    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    width = None
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        width = UNLIMITED
    return Console(file=stream, highlight=False, emoji=False, markup=False, width=width)


def shown(text: str, console: Console) -> str:
    """``text`` in the characters that ``console`` can show."""
    text = printable(text)
    if console.encoding.startswith("utf"):
        return text
    ascii_text = text.translate(_ASCII)
    return ascii_text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def marked(line: str) -> Text:
    """A line whose first words are a verdict, with that in its color."""
    from rich.text import Text

    text = Text(line)
    for word, meaning in _MARKS.items():
        if line.startswith(word):
            text.stylize(STYLES[meaning], 0, len(word))
    return text


def wrapped(text: str, console: Console, indent: int = 2) -> list[str]:
    """``text`` in lines that fit, all but the first indented."""
    return textwrap.wrap(
        shown(text, console),
        console.width,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def fitting(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    dropped_first: Sequence[str],
    keep: Callable[[str], bool] = lambda _: False,
    no_value: Sequence[str] = ("n/a", "-"),
) -> tuple[list[int], list[str]]:
    """Columns of a table that fit.

    Args:
        headings: of all columns.
        rows: cells.
        width: of the screen.
        dropped_first: headings in the order of leaving; columns without a value go before them.
        keep: whether a column stays although it is among these.
        no_value: what a cell without a value says.

    Returns:
        Indices of the columns to show, and headings of those that left with their values.
    """
    from rich.cells import cell_len

    cells = dict(zip(headings, zip(headings, *rows, strict=True), strict=True))
    widths = {heading: max(map(cell_len, column)) for heading, column in cells.items()}
    candidates = [each for each in dropped_first if each in cells and not keep(each)]
    empty = [each for each in candidates if all(cell in no_value for cell in cells[each][1:])]
    dropped: list[str] = []
    for heading in [*empty, *(each for each in candidates if each not in empty)]:
        if sum(widths.values()) + _GAP * (len(widths) - 1) <= width:
            break
        del widths[heading]
        if heading not in empty:
            dropped.append(heading)
    return [index for index, heading in enumerate(headings) if heading in widths], dropped


def grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[str],
    console: Console,
    folded: str = "",
) -> Table:
    """A table of ``rows`` without lines.

    Args:
        headings: of its columns.
        rows: cells; verdicts among them are colored.
        left: headings of the columns that are aligned to the left.
        console: that shows it.
        folded: heading of the column whose cells may break if the table is too wide.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for heading in headings:
        table.add_column(
            Text(shown(heading, console)),
            justify="left" if heading in left else "right",
            no_wrap=heading != folded,
            overflow="fold",
        )
    for row in rows:
        table.add_row(
            *(
                # what is as it should be has no color: the others are seen at once
                marked(cell) if _MARKS.get(cell, "good") != "good" else Text(shown(cell, console))
                for cell in row
            )
        )
    return table
