"""LoadGen runs: MLPerf's load generator on the rows."""

from __future__ import annotations

from resnext_bench.page.document import Section, table
from resnext_bench.page.entries import entries, status
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import number
from resnext_bench.record import RunRecord

_PERCENTILES = ("p50", "p90", "p99")


def section(run: RunRecord) -> Section | None:
    """A table, with LoadGen's own summaries; None if it was not requested."""
    rows = [(one, one.row.loadgen) for one in entries(run) if one.row.loadgen is not None]
    if not rows:
        return None
    headings = (
        *("row", "verdict", "scenario", "images/s", "queries"),
        *(f"{percentile} ms" for percentile in _PERCENTILES),
    )
    cells: list[list[Markup | str]] = []
    summaries = []
    for entry, one in rows:
        times = [one.percentiles_ns.get(percentile) for percentile in _PERCENTILES]
        cells.append(
            [
                entry.name,
                status("valid" if one.result == "VALID" else "invalid"),
                one.scenario,
                "n/a" if one.images_per_s is None else number(one.images_per_s),
                f"{one.queries:,}",
                *("n/a" if ns is None else number(ns / 1e6) for ns in times),
            ]
        )
        title = tag("summary", f"LoadGen's summary of {entry.name}")
        reasons = [tag("li", reason) for reason in one.recommendations]
        summaries += [
            tag("ul", *reasons, class_="findings") if reasons else None,
            tag("details", title, tag("pre", one.summary, tabindex="0")),
        ]
    numbers = [entry.number for entry, _ in rows]
    body = table("LoadGen runs", headings, cells, left=(0, 1, 2), numbers=numbers)
    note = (
        f"MLPerf's load generator, version {rows[0][1].version}, for at least"
        f" {rows[0][1].min_duration_s:g} s a row; not an MLPerf result. The verdict is LoadGen's."
    )
    return Section("loadgen", "LoadGen runs", join(body, *summaries), note)
