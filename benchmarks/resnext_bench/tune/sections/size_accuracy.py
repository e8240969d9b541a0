"""The size of the file against accuracy on labeled images."""

from __future__ import annotations

from resnext_bench.page.chart import Axis, legend
from resnext_bench.page.document import Section
from resnext_bench.page.markup import join
from resnext_bench.page.scales import linear, logarithmic
from resnext_bench.page.scatter import Point, scatter
from resnext_bench.tune import amounts
from resnext_bench.tune.record import CandidateRecord, TuneRecord

from .points import Entry, entries, series


def section(record: TuneRecord) -> Section | None:
    """The chart; None below two artifacts whose accuracy was measured."""
    every = entries(record)
    index = series(every)
    # Batch, threads and streams change neither: one point for each artifact.
    files: dict[object, Entry] = {}
    for row in every:
        if row.candidate.accuracy is not None and row.candidate.size_bytes:
            files.setdefault(_file(row.candidate), row)
    points = [_point(row, index[row.series]) for row in files.values()]
    if len(points) < 2:
        return None
    most = max(points, key=lambda point: point.y)
    chart = scatter(
        "size-chart",
        "Size against accuracy",
        f"The highest top-1 is {most.y:.2f} %. {len(points)} artifacts.",
        Axis(logarithmic(point.x for point in points), "MB"),
        Axis(linear(point.y for point in points), "top-1, %"),
        points,
    )
    note = (
        "Better is up and to the left. One point for each artifact that ran on the labeled images;"
        " an outline missed a gate."
    )
    body = join(legend(index, {row.series for row in files.values()}), chart)
    return Section("size", "Size and accuracy", body, note, wide=False)


def _file(one: CandidateRecord) -> object:
    recipe = (one.backend, one.precision, one.merge_groups, one.calibration_method)
    return one.artifact_sha256 or recipe


def _point(row: Entry, series: int) -> Point:
    one = row.candidate
    assert one.accuracy is not None
    assert one.size_bytes is not None
    top1 = one.accuracy
    hint = (
        f"{one.name}\n{amounts.megabytes(one.size_bytes)} MB, top-1 {top1.top1:.2%}"
        f" ({top1.top1_low:.2%} to {top1.top1_high:.2%})\nagrees {top1.agreement:.2%}"
    )
    missed = any(not gate.passed for gate in one.gates)
    return Point(one.size_bytes / 1e6, 100 * top1.top1, series, "", hint, row.number, hollow=missed)
