"""A table that fits the screen: with too many columns for its width, some are left out."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, TypeAlias

from resnext.errors import printable

from .rounds import BARS, DISTURBED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    #: A terminal, or what stands in for one.
    Screen: TypeAlias = Console

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
_ASCII = str.maketrans(
    {**dict(zip(BARS, "1234567", strict=True)), DISTURBED: "x", "±": "+-", "≤": "<="}
)
_MARKS = {
    "VALID": "good",
    "FASTER": "good",
    "SAME": "good",
    "AGREE": "good",
    "PICKED": "good",
    "IN DOUBT": "doubtful",
    "SO FAR": "doubtful",
    "NONE": "bad",
    "CANNOT TELL": "doubtful",
    "SLOWER": "bad",
    "DIFFER": "bad",
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


def printed(show: Callable[[Console], None], width: int = UNLIMITED) -> str:
    """What ``show`` prints on a screen of ``width`` columns, without colors."""
    from rich.console import Console

    out = StringIO()
    show(Console(file=out, width=width, highlight=False, color_system=None, markup=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def say(line: str, console: Console, style: str = "") -> None:
    """Print ``line``, wrapped; a verdict that it begins with has its color."""
    for part in wrapped(line, console) or [""]:
        text = marked(part)
        text.stylize(style)
        console.print(text)


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
        if re.match(rf"{word}\b", line):
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
    bold: Collection[int] = (),
) -> tuple[list[str], list[str]]:
    """Print a table without lines: as many columns as fit, no number cut.

    Args:
        headings: of all columns.
        rows: cells; verdicts among them that are not good are colored.
        console: that shows it.
        left: headings of the columns that are aligned to the left.
        folded: heading of the column whose cells are broken if the rest is still too wide.
        dropped_first: headings in the order of leaving; columns without a value go before them.
        bold: indices of rows to stress.

    Returns:
        Headings of the columns that are shown, and of those that left with their values.
    """
    texts = [[shown(cell, console) for cell in row] for row in (headings, *rows)]
    kept, dropped, widths = _fitting(headings, texts[1:], console.width, dropped_first)
    others = sum(widths.values()) - widths.get(folded, 0) + _GAP * (len(kept) - 1)
    if folded in widths:
        widths[folded] = min(widths[folded], max(_LEAST_FOLDED, console.width - others))
    for index, row in enumerate(texts, start=-1):
        cells = dict(zip(headings, row, strict=True))
        first, *more = textwrap.wrap(cells[folded], widths[folded]) or [""]
        for part in ({**cells, folded: first}, *({folded: line} for line in more)):
            line = _line(part, widths, left)
            line.stylize("bold" if index in (-1, *bold) else "")
            console.print(line, soft_wrap=True)
    return kept, dropped


def _line(cells: Mapping[str, str], widths: Mapping[str, int], left: Sequence[str]) -> Text:
    """A line of a table. Verdicts are colored, unless all is as it should be: so that the others
    are seen at once.
    """
    from rich.cells import cell_len
    from rich.text import Text

    line = Text()
    for heading, width in widths.items():
        cell = cells.get(heading, "")
        padding = " " * (width - cell_len(cell))
        line.append(padding * (heading not in left))
        line.append_text(marked(cell) if _MARKS.get(cell, "good") != "good" else Text(cell))
        line.append(padding * (heading in left) + " " * _GAP)
    line.rstrip()
    return line


def _fitting(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    dropped_first: Sequence[str],
) -> tuple[list[str], list[str], dict[str, int]]:
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
    return list(widths), dropped, widths
