"""A table that fits the screen: with too many columns for its width, some are left out."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnext.errors import printable

from .rounds import BARS, DISTURBED

if TYPE_CHECKING:
    from rich.console import Console
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
#: What a cell says that has no value.
NO_VALUE = ("n/a", "-")
_GAP = 2
#: Width down to which the cells of a column are broken.
_LEAST_FOLDED = 8
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


def draw(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console,
    *,
    left: Sequence[str],
    folded: str,
    dropped_first: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Print a table without lines: as many columns as fit, no number cut.

    Args:
        headings: of all columns.
        rows: cells; verdicts among them that are not good are colored.
        console: that shows it.
        left: headings of the columns that are aligned to the left.
        folded: heading of the column whose cells are broken if the rest is still too wide.
        dropped_first: headings in the order of leaving; columns without a value go before them.

    Returns:
        Headings of the columns that are shown, and of those that left with their values.
    """
    from rich.table import Table
    from rich.text import Text

    texts = [[shown(cell, console) for cell in row] for row in rows]
    kept, dropped, widths = _fitting(headings, texts, console.width, dropped_first)
    if folded in kept:
        widths[kept.index(folded)] = min(_LEAST_FOLDED, widths[kept.index(folded)])
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for heading in kept:
        table.add_column(
            Text(shown(heading, console)),
            justify="left" if heading in left else "right",
            no_wrap=heading != folded,
            overflow="fold",
        )
    for row in texts:
        cells = dict(zip(headings, row, strict=True))
        # what is as it should be has no color: the others are seen at once
        table.add_row(
            *(
                marked(cells[heading])
                if _MARKS.get(cells[heading], "good") != "good"
                else Text(cells[heading])
                for heading in kept
            )
        )
    width = console.width
    console.width = max(width, sum(widths) + _GAP * (len(widths) - 1))
    console.print(table)
    console.width = width
    return kept, dropped


def _fitting(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    dropped_first: Sequence[str],
) -> tuple[list[str], list[str], list[int]]:
    """Headings of the columns that fit, of those that left with their values, and the widths of
    the former.
    """
    from rich.cells import cell_len

    cells = dict(zip(headings, zip(headings, *rows, strict=True), strict=True))
    widths = {heading: max(map(cell_len, column)) for heading, column in cells.items()}
    candidates = [heading for heading in dropped_first if heading in cells]
    empty = [each for each in candidates if set(cells[each][1:]) <= set(NO_VALUE)]
    dropped: list[str] = []
    for heading in [*empty, *(each for each in candidates if each not in empty)]:
        if sum(widths.values()) + _GAP * (len(widths) - 1) <= width:
            break
        del widths[heading]
        if heading not in empty:
            dropped.append(heading)
    return list(widths), dropped, list(widths.values())
