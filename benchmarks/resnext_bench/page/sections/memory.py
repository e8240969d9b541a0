"""Memory and size of the model."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, measured
from resnext_bench.page.markup import join
from resnext_bench.page.scales import linear, number
from resnext_bench.record import RunRecord

_HEIGHT = 17.0


def section(run: RunRecord) -> Section | None:
    """The bars; None if no memory was recorded."""
    rows = [(entry, _memory(entry)) for entry in measured(run)]
    rows = [(entry, size) for entry, size in rows if size is not None]
    if not rows:
        return None
    models = [entry.row.model_size_bytes or 0 for entry, _ in rows]
    scale = linear([*(size or 0 for _, size in rows), *models], zero=True)
    drawn = []
    for entry, size in rows:
        model = entry.row.model_size_bytes
        bars = join(
            marks.bar(scale.fraction(size or 0), 1, 9, "accent"),
            None if model is None else marks.bar(scale.fraction(model), 12, 4, "muted"),
        )
        text = f"{_mb(size)}, model {_mb(model)}"
        drawn.append(Strip(entry.name, text, bars, entry.number, f"{entry.name}\n{text}"))
    most, size = max(rows, key=lambda row: row[1] or 0)
    axis = Axis(scale, "MB", lambda value: f"{value / 1e6:g}")
    words = f"Most: {most.name}, {_mb(size)}."
    chart = strips("memory-chart", "Memory of each row", words, axis, drawn, _HEIGHT)
    note = (
        "Thick: peak added by opening and the first runs, on a GPU of its memory. Thin: the model's"
        " file, or its tensors."
    )
    return Section("memory", "Memory", chart, note)


def _memory(entry: Entry) -> int | None:
    row = entry.row
    on_device = row.peak_device_bytes if row.device != "cpu" else None
    return on_device if on_device is not None else row.peak_host_bytes


def _mb(size: int | None) -> str:
    return "n/a" if size is None else f"{number(size / 1e6)} MB"
