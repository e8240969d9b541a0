"""Draw ``concepts/figure3_forms.svg``: the three forms of a bottleneck block, and merged groups.

Run from anywhere: ``python docs/draw_forms.py [OUT]``. The same input gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

INK = "#1f2933"
REDUCE, SPATIAL, EXPAND, JOIN = "#cfe3f5", "#fbdcb2", "#d3ecd0", "#ffffff"
ZERO = "#eceff1"
#: Heights of the rows of a panel, input to output.
INPUT, ROW1, ROW2, ROW3, JOINED, OUTPUT = 9.3, 7.7, 6.1, 4.5, 2.6, 0.7


def draw(out: Path) -> None:
    """Write the figure to ``out``."""
    mpl.rcParams.update(
        {"svg.hashsalt": "forms", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    )
    figure, axes = plt.subplots(2, 2, figsize=(11, 10.4), facecolor="white")
    draw_summed(axes[0, 0])
    draw_concatenated(axes[0, 1])
    draw_grouped(axes[1, 0])
    draw_merged(axes[1, 1])
    figure.subplots_adjust(left=0.02, right=0.98, top=0.955, bottom=0.02, wspace=0.05, hspace=0.12)
    figure.savefig(out, metadata={"Date": None, "Creator": None}, facecolor="white")
    # matplotlib leaves blanks at the ends of lines, which whitespace checks would refuse.
    out.write_text("\n".join(line.rstrip() for line in out.read_text().splitlines()) + "\n")
    plt.close(figure)


def draw_summed(ax: Axes) -> None:
    """Form (a)."""
    panel(ax, "(a) sum of paths")
    label(ax, 4.6, INPUT, "256 channels")
    for x, name in ((1.5, "path 1"), (4.0, "path 2"), (7.7, "path 32")):
        arrow(ax, (4.6, INPUT - 0.28), (x, ROW1 + 0.45))
        box(ax, x, ROW1, "1×1, 256→4", REDUCE)
        arrow(ax, (x, ROW1 - 0.45), (x, ROW2 + 0.45))
        box(ax, x, ROW2, "3×3, 4→4", SPATIAL)
        arrow(ax, (x, ROW2 - 0.45), (x, ROW3 + 0.45))
        box(ax, x, ROW3, "1×1, 4→256", EXPAND)
        arrow(ax, (x, ROW3 - 0.45), (4.6, JOINED + 0.3))
        label(ax, x + 0.15, (ROW1 + ROW2) / 2, name, side="right")
    for row in (ROW1, ROW2, ROW3):
        label(ax, 5.85, row, "···", size=15)
    plus(ax, 4.6, JOINED)
    label(ax, 5.0, JOINED, "sum, then batch norm", side="right")
    shortcut(ax, 4.6, 9.5, JOINED - 0.3)


def draw_concatenated(ax: Axes) -> None:
    """Form (b)."""
    panel(ax, "(b) early concatenation")
    label(ax, 4.6, INPUT, "256 channels")
    for x in (1.5, 4.0, 7.7):
        arrow(ax, (4.6, INPUT - 0.28), (x, ROW1 + 0.45))
        box(ax, x, ROW1, "1×1, 256→4", REDUCE)
        arrow(ax, (x, ROW1 - 0.45), (x, ROW2 + 0.45))
        box(ax, x, ROW2, "3×3, 4→4", SPATIAL)
        arrow(ax, (x, ROW2 - 0.45), (x, ROW3 + 0.45))
    for row in (ROW1, ROW2):
        label(ax, 5.85, row, "···", size=15)
    box(ax, 4.6, ROW3, "concatenate: 32 × 4 = 128 channels", JOIN, width=8.4)
    arrow(ax, (4.6, ROW3 - 0.45), (4.6, JOINED + 0.65))
    box(ax, 4.6, JOINED + 0.2, "1×1, 128→256", EXPAND, width=5.2)
    shortcut(ax, 4.6, 9.5, JOINED - 0.25)


def draw_grouped(ax: Axes) -> None:
    """Form (c)."""
    panel(ax, "(c) grouped convolution")
    label(ax, 4.6, INPUT, "256 channels")
    arrow(ax, (4.6, INPUT - 0.28), (4.6, ROW1 + 0.45))
    box(ax, 4.6, ROW1, "1×1, 256→128", REDUCE, width=5.2)
    arrow(ax, (4.6, ROW1 - 0.45), (4.6, ROW2 + 0.45))
    box(ax, 4.6, ROW2, "3×3, 128→128, 32 groups", SPATIAL, width=5.2)
    arrow(ax, (4.6, ROW2 - 0.45), (4.6, ROW3 + 0.45))
    box(ax, 4.6, ROW3, "1×1, 128→256", EXPAND, width=5.2)
    shortcut(ax, 4.6, 9.5, ROW3 - 0.45)


def draw_merged(ax: Axes) -> None:
    """The 3x3 weights before and after merging, one cell for each pair of groups."""
    panel(ax, "(c) with merged groups: the 3×3 weights")
    groups, factor, side = 8, 4, 0.5
    for left, merged in ((0.4, False), (5.6, True)):
        top = 8.2
        for row in range(groups):
            for column in range(groups):
                corner = (left + column * side, top - (row + 1) * side)
                if row == column:
                    ax.add_patch(
                        Rectangle(
                            corner, side, side, facecolor=SPATIAL, edgecolor=INK, linewidth=0.8
                        )
                    )
                elif merged and row // factor == column // factor:
                    ax.add_patch(
                        Rectangle(
                            corner, side, side, facecolor=ZERO, edgecolor="#b0b8bf", linewidth=0.5
                        )
                    )
                    label(ax, corner[0] + side / 2, corner[1] + side / 2, "0", size=8)
        wide = side * (factor if merged else 1)
        for start in range(round(groups * side / wide)):
            corner = (left + start * wide, top - (start + 1) * wide)
            ax.add_patch(Rectangle(corner, wide, wide, fill=False, edgecolor=INK, linewidth=1.6))
        ax.add_patch(
            Rectangle(
                (left, top - groups * side),
                groups * side,
                groups * side,
                fill=False,
                edgecolor=INK,
                linewidth=0.8,
                linestyle=(0, (2, 3)),
            )
        )
    label(ax, 2.4, 8.6, "input channels")
    label(ax, 7.6, 8.6, "input channels")
    ax.text(
        0.1, 6.2, "output channels", ha="center", va="center", rotation=90, color=INK, fontsize=10
    )
    arrow(ax, (4.6, 6.2), (5.4, 6.2))
    label(ax, 2.4, 3.7, "8 groups of d channels")
    label(ax, 7.6, 3.7, "factor 4: 2 groups of 4·d")
    legend = (
        (SPATIAL, "weights, unchanged"),
        (ZERO, "explicit zeros, stored and multiplied"),
        (JOIN, "not stored"),
    )
    for index, (colour, text) in enumerate(legend):
        y = 2.7 - 0.75 * index
        style = (0, (2, 3)) if colour == JOIN else "-"
        ax.add_patch(
            Rectangle(
                (1.7, y - 0.22),
                0.44,
                0.44,
                facecolor=colour,
                edgecolor=INK,
                linewidth=0.8,
                linestyle=style,
            )
        )
        label(ax, 2.45, y, text, side="right")


def panel(ax: Axes, title: str) -> None:
    """Clear ``ax`` to a 10 x 10 canvas under ``title``."""
    ax.set_xlim(-0.2, 10.2)
    ax.set_ylim(0, 10)
    ax.set_axis_off()
    ax.set_title(title, color=INK, fontsize=13, fontweight="bold")


def box(ax: Axes, x: float, y: float, text: str, colour: str, width: float = 2.3) -> None:
    """A layer centred on (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2 + 0.1, y - 0.35),
        width - 0.2,
        0.7,
        boxstyle="round,pad=0.1",
        facecolor=colour,
        edgecolor=INK,
        linewidth=1,
    )
    ax.add_patch(shape)
    label(ax, x, y, text)


def plus(ax: Axes, x: float, y: float) -> None:
    """A sum centred on (x, y)."""
    ax.add_patch(Circle((x, y), 0.28, facecolor="white", edgecolor=INK, linewidth=1.2))
    label(ax, x, y - 0.02, "+", size=13)


def shortcut(ax: Axes, x: float, aside: float, start: float) -> None:
    """The path from the block's input around its layers to the last sum, and the output."""
    end = 1.55
    arrow(ax, (x, start), (x, end + 0.3))
    ax.plot([x + 1.25, aside, aside], [INPUT, INPUT, end], color=INK, linewidth=1.2)
    arrow(ax, (aside, end), (x + 0.3, end))
    plus(ax, x, end)
    label(ax, aside - 0.15, end + 0.3, "shortcut", side="left")
    arrow(ax, (x, end - 0.3), (x, OUTPUT - 0.05))
    label(ax, x, OUTPUT - 0.35, "256 channels")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from ``start`` to ``end``."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=INK,
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
        )
    )


def label(ax: Axes, x: float, y: float, text: str, side: str = "centre", size: float = 10) -> None:
    """Text centred on (x, y), or to one side of it."""
    align = {"centre": "center", "left": "right", "right": "left"}[side]
    ax.text(x, y, text, ha=align, va="center", color=INK, fontsize=size)


if __name__ == "__main__":
    draw(
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).parent / "concepts" / "figure3_forms.svg"
    )
