"""Draw ``pipeline.svg`` and ``concepts/architecture.svg``, readable on light and on dark pages.

Run from anywhere: ``python docs/draw_pipeline.py [OUT]``; the default is this folder. The same
input gives the same bytes. Text is inside filled boxes only, and lines have a grey that both pages
show.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

INK, LINE = "#1f2933", "#7d8590"
SOURCE, GRAPH, SHIPPED, RUN, VERDICT = "#cfe3f5", "#fbdcb2", "#d3ecd0", "#e3d9f2", "#f7d4d4"
ARTIFACT = """artifact
one file: ONNX,
OpenVINO IR,
TensorRT engine or
AOTInductor package

and manifest.json:
what it is, sha256,
how it was checked"""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

#: What `pipeline` draws: x, y, width, height, color, and the lines of text; the first is the title.
STAGES: tuple[tuple[int, int, int, int, str, str], ...] = (
    (10, 12, 130, 64, SOURCE, "weights\n.pth, .safetensors,\nshipped or seeded"),
    (10, 148, 130, 64, SOURCE, "ResNeXt\nin PyTorch,\nthe reference"),
    (184, 12, 130, 64, GRAPH, "ONNX\nbatch norms folded,\nany batch size"),
    (184, 148, 130, 64, GRAPH, "passes\nfp16 bf16 int8 fp8,\nmerged groups"),
    (358, 12, 158, 200, SHIPPED, ARTIFACT),
    (560, 12, 130, 64, RUN, "session\nruns the bytes\non disk"),
    (560, 148, 130, 64, VERDICT, "parity\nlogits against\nthe reference"),
    (734, 12, 136, 64, RUN, "measurement\ninterleaved rounds,\none clock"),
    (734, 148, 136, 64, VERDICT, "verdict\nVALID or INVALID,\nand why"),
)
#: Arrows of `pipeline`: points in order; the last has the head.
FLOWS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((75, 76), (75, 146)),
    ((140, 44), (182, 44)),
    ((314, 44), (356, 44)),
    ((249, 76), (249, 146)),
    ((314, 180), (356, 180)),
    ((516, 44), (558, 44)),
    ((690, 44), (732, 44)),
    ((625, 76), (625, 146)),
    ((802, 76), (802, 146)),
    ((690, 180), (732, 180)),
    ((75, 212), (75, 240), (625, 240), (625, 214)),
)

#: Folders and modules of each package that `architecture` draws, from the top layer down; a layer
#: imports lower ones only.
LAYERS: dict[str, tuple[str, ...]] = {
    "resnext_bench": (
        "cli",
        "explain",
        "tune",
        "ab history fleet",
        "run report lens crosscheck",
        "checks cases comparison",
        "result",
        "page scenarios limits",
        "plan stats",
    ),
    "resnext_export": (
        "cli triton",
        "doctor bisect",
        "store",
        "formats",
        "tuning tensorrt",
        "calibration convert passes",
        "request",
    ),
    "resnext": (
        "cli testing",
        "batch",
        "verify timing",
        "runtimes",
        "weights artifact",
        "images kernels",
        "network cluster machine",
        "errors progress storage readers",
    ),
}


def pipeline() -> str:
    """From weights to verdict."""
    parts = [box(*stage) for stage in STAGES]
    parts += [arrow(points) for points in FLOWS]
    return picture(
        880,
        252,
        "From weights through ONNX and artifact to session, parity, measurement and verdict",
        parts,
    )


def architecture() -> str:
    """The three packages and their layers."""
    parts = []
    for index, (package, layers) in enumerate(LAYERS.items()):
        left, width = 10 + index * 296, 268
        parts.append(rectangle(left, 10, width, 396, "none"))
        parts.append(box(left + 14, 24, width - 28, 34, RUN, package))
        for row, layer in enumerate(layers):
            names = layer.split()
            room, x = width - 28 - 8 * (len(names) - 1), left + 14.0
            for name in names:  # long names get more of the room
                each = room * (len(name) + 3) / sum(len(other) + 3 for other in names)
                parts.append(box(x, 74 + row * 46, each, 34, (GRAPH, SOURCE)[row % 2], name))
                x += each + 8
    parts += [arrow(((278, 220), (304, 220))), arrow(((574, 220), (600, 220)))]
    return picture(880, 416, "Three packages; each layer imports lower ones only", parts)


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """An SVG without background."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
            f' font-family="{FONT}" text-anchor="middle" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"',
            f' markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8Z" fill="{LINE}"/></marker>',
            *parts,
            "</svg>\n",
        )
    )


def box(x: float, y: float, width: float, height: float, color: str, lines: str) -> str:
    """A filled box; the first line is its title."""
    title, *rest = lines.split("\n")
    pitch, middle = 18, f'x="{x + width / 2:g}"'
    first = y + height / 2 - pitch * len(rest) / 2 + 5
    text = [f'<text {middle} y="{first:g}" font-size="14" font-weight="600">{escape(title)}</text>']
    for index, line in enumerate(rest, start=1):
        text.append(
            f'<text {middle} y="{first + pitch * index:g}" font-size="12">{escape(line)}</text>'
        )
    return "\n".join((rectangle(x, y, width, height, color), *text))


def rectangle(x: float, y: float, width: float, height: float, color: str) -> str:
    """A box with round corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="7" fill="{color}" stroke="{LINE}"/>'


def arrow(points: tuple[tuple[int, int], ...]) -> str:
    """A line through ``points`` with a head at the last."""
    route = " ".join(f"{x},{y}" for x, y in points)
    style = f'fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#head)"'
    return f'<polyline points="{route}" {style}/>'


#: The pictures by their path below docs/.
PICTURES = {"pipeline.svg": pipeline, "concepts/architecture.svg": architecture}


def main(folder: Path) -> None:
    """Write every picture below ``folder``."""
    for name, draw in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
