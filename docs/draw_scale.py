"""Draw ``guides/scale.svg``: efficiency of the simulated jobs against the number of workers.

Run from anywhere: ``python docs/draw_scale.py [OUT]``; it takes half a minute of processor time.
The numbers are those of the first table of ``benchmarks/scale_simulation.py``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
INK, LINE, GRID = "#1f2933", "#7d8590", "#e3e6e9"
COLORS = ("#0b6bb8", "#b35c00", "#2e7d32")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
#: Of the plot within the picture, pixels.
LEFT, TOP, WIDTH, HEIGHT = 62, 20, 560, 250

#: Points (workers, efficiency) by the name of their job.
Curves = dict[str, list[tuple[int, float]]]


def simulated() -> Curves:
    """The first table of the simulation."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from scale_simulation import cases, simulate

    curves: Curves = {}
    for case in cases()["workers"]:
        efficiency = simulate(case.job, case.crew, case.driver).efficiency
        curves.setdefault(case.name, []).append((case.crew.workers, efficiency))
    return curves


def drawn(curves: Curves) -> str:
    """An SVG on white, readable on light and on dark pages."""
    parts = [f'<rect width="660" height="330" rx="7" fill="#ffffff" stroke="{LINE}"/>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = TOP + HEIGHT * (1 - share)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + WIDTH}" stroke="{GRID}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{share:.0%}", "end"))
    for workers in (10, 100, 1000, 10_000):
        parts.append(f'<path d="M{x_of(workers):.1f} {TOP}v{HEIGHT}" stroke="{GRID}"/>')
        parts.append(text(x_of(workers), TOP + HEIGHT + 18, f"{workers:,}", "middle"))
    parts.append(text(LEFT + WIDTH / 2, TOP + HEIGHT + 38, "workers", "middle"))
    for index, ((name, points), color) in enumerate(zip(curves.items(), COLORS, strict=True)):
        places = [(x_of(workers), TOP + HEIGHT * (1 - share)) for workers, share in points]
        route = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{route}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        key = TOP + HEIGHT - 60 + 20 * index
        parts.append(f'<path d="M{LEFT + 14} {key}h22" stroke="{color}" stroke-width="2"/>')
        parts.append(text(LEFT + 44, key + 4, name, "start"))
    return "\n".join(
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 330" role="img"',
            f' font-family="{FONT}" font-size="12" fill="{INK}">',
            "<title>Efficiency against the number of workers</title>",
            *parts,
            "</svg>\n",
        )
    )


def x_of(workers: int) -> float:
    """Where a number of workers is, from 10 to 10,000, pixels."""
    return LEFT + WIDTH * math.log10(workers / 10) / 3


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "guides" / "scale.svg"
    out.write_text(drawn(simulated()), encoding="utf-8")
