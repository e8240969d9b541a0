"""Latency under load, and the rates that a search tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resnext_bench.page import marks
from resnext_bench.page.chart import Axis, legend, xy
from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import Entry, entries
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import Scale, logarithmic, number
from resnext_bench.record import RunRecord
from resnext_bench.scenarios.load_record import LoadRecord, Probe

_HEIGHT = 220.0
#: Points of a line of percentiles.
_MOST = 60
_Rows = Sequence[tuple[Entry, LoadRecord]]


def section(run: RunRecord) -> Section | None:
    """The charts; None if no row was under load."""
    rows = [(one, one.row.load) for one in entries(run) if one.row.load and one.row.load.probes]
    if not rows:
        return None
    index = {entry.name: place for place, (entry, _) in enumerate(rows)}
    body = join(
        legend(index, list(index)),
        _percentiles(rows, index),
        _rates(rows, index) if any(load.searched for _, load in rows) else None,
        _table(rows),
    )
    note = (
        "A request's latency is from its planned arrival to its answer, so waiting counts. p90 and"
        " p99 are upper bounds at 99 % confidence."
    )
    return Section("load", "Under load", body, note)


def shown(load: LoadRecord) -> Probe:
    """The load to show: the largest that met the SLO, of a search; else the last."""
    met = [one for one in load.probes if one.verdict == "met"]
    if load.searched and met:
        return max(met, key=lambda one: one.offered_per_s or 0)
    return load.probes[-1]


def _percentiles(rows: _Rows, index: Mapping[str, int]) -> Markup:
    probes = [(entry, shown(load)) for entry, load in rows]
    x = Scale(1.4, max(100.0, *(float(len(one.latency_ns)) for _, one in probes)), log=True)
    slos = {load.slo_ns for _, load in rows if load.slo_ns is not None}
    y = logarithmic(
        [*(ns / 1e6 for ns in slos)]
        + [ns / 1e6 for _, one in probes for ns in (one.p50_ns, one.max_ns, min(one.latency_ns))]
    )
    parts = [_limit(y, ns / 1e6) for ns in slos]
    for entry, probe in probes:
        ordered, count = sorted(probe.latency_ns), len(probe.latency_ns)
        points = []
        for step in range(_MOST + 1):
            rarity = x.low * (x.high / x.low) ** (step / _MOST)
            if rarity <= count:
                ns = ordered[min(count - 1, int(count * (1 - 1 / rarity)))]
                points.append((x.fraction(rarity), _HEIGHT * (1 - y.fraction(ns / 1e6))))
        line = marks.line(points, _HEIGHT, marks.series_class(index[entry.name]))
        hint = f"{entry.name}, {probe.label}\n{_text(probe)}"
        end = marks.mark(index[entry.name], f"{100 * points[-1][0]:.2f}%", points[-1][1], hint)
        parts.append(marks.group(line, end, row=entry.number))
    words = "; ".join(f"{entry.name}, {probe.label}: {_text(probe)}" for entry, probe in probes)
    ticks = [value for value in (2, 10, 100, 1000, 10_000) if value <= x.high]
    across = Axis(x, "percentile of requests", lambda one: f"{100 - 100 / one:.6g} %", ticks)
    title = "Latency by percentile"
    chart = xy("load-chart", title, f"{words}.", across, Axis(y, "ms"), _HEIGHT, *parts)
    return join(tag("h3", title), chart)


def _rates(rows: _Rows, index: Mapping[str, int]) -> Markup:
    probes = [
        (entry, one, one.offered_per_s, (one.p99_ns or one.max_ns) / 1e6)
        for entry, load in rows
        for one in load.probes
        if load.searched and one.offered_per_s
    ]
    slos = {load.slo_ns / 1e6 for _, load in rows if load.slo_ns is not None}
    x = logarithmic(rate for _, _, rate, _ in probes)
    y = logarithmic([*(ms for *_, ms in probes), *slos])
    parts = [_limit(y, ms) for ms in slos]
    for entry, probe, rate, ms in probes:
        at, down = x.percent(rate), _HEIGHT * (1 - y.fraction(ms))
        hint = f"{entry.name}, {probe.label}: {probe.verdict or ''}\n{_text(probe)}"
        met = probe.verdict == "met"
        point = marks.mark(index[entry.name], at, down, hint, hollow=not met)
        parts.append(marks.group(point, row=entry.number))
    words = "; ".join(f"{entry.name}: {_largest(load)}" for entry, load in rows if load.searched)
    title = "Rates that the search tried"
    axes = Axis(x, "requests a second that arrive"), Axis(y, "p99, ms")
    chart = xy("load-rates-chart", title, f"{words}.", *axes, _HEIGHT, *parts)
    note = "Filled: 99 % of requests met the SLO, the horizontal line. Hollow: not, or not proven."
    return join(tag("h3", title), tag("p", note, class_="note"), chart)


def _table(rows: _Rows) -> Markup:
    headings = (
        *("row", "load", "answered/s", "images/s", "p50 ms", "p90 ms", "p99 ms", "dropped"),
        *("SLO", "largest rate"),
    )
    cells = []
    for entry, load in rows:
        one = shown(load)
        times = [_ms(one.p50_ns), _ms(one.p90_ns), _ms(one.p99_ns)]
        slo = "-" if load.slo_ns is None else f"{number(load.slo_ns / 1e6)} ms {one.verdict or ''}"
        speeds = [number(one.answered_per_s), number(one.images_per_s)]
        rest = [f"{one.dropped:,}", slo, _largest(load) if load.searched else "-"]
        cells.append([entry.name, one.label, *speeds, *times, *rest])
    numbers = [entry.number for entry, _ in rows]
    return table("Rows under load", headings, cells, left=(0, 1), numbers=numbers)


def _largest(load: LoadRecord) -> str:
    return "none met it" if load.largest_per_s is None else f"{number(load.largest_per_s)}/s"


def _text(probe: Probe) -> str:
    return f"p50 {_ms(probe.p50_ns)} ms, p99 {_ms(probe.p99_ns)} ms"


def _ms(ns: float | None) -> str:
    return "n/a" if ns is None else number(ns / 1e6)


def _limit(y: Scale, ms: float) -> Markup:
    down = _HEIGHT * (1 - y.fraction(ms))
    line = tag("line", x1="0", x2="100%", y1=down, y2=down, class_="limit")
    return join(line, marks.label(f"SLO {number(ms)} ms", "100%", down - 5, "end", "small"))
