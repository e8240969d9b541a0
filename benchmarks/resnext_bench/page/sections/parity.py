"""Errors of the timed outputs, against what the gate allows, for each kind of input."""

from __future__ import annotations

from resnext_bench.page import marks
from resnext_bench.page.chart import GAP, Axis, Strip, strips
from resnext_bench.page.document import Section
from resnext_bench.page.entries import Entry, measured
from resnext_bench.page.markup import join
from resnext_bench.page.scales import Scale, logarithmic
from resnext_bench.record import RunRecord

_HEIGHT = 14.0
#: Shares of the limit below this are drawn at it.
_LEAST = 1e-4


def section(run: RunRecord) -> Section | None:
    """The chart; None if nothing was compared."""
    rows = [entry for entry in measured(run) if _shares(entry)]
    if not rows:
        return None
    scale = logarithmic([1.0, *(share for entry in rows for _, share in _shares(entry))])
    least = f"{max(_worst(entry) for entry in rows):.2g}"
    chart = strips(
        "parity-chart",
        "Errors as shares of what the gate allows",
        f"The worst share of any row is {least}; above 1 a row is invalid.",
        Axis(scale, "largest error over the allowed one"),
        [_strip(entry, scale) for entry in rows],
        _HEIGHT,
        marks.upright(scale, 1, _HEIGHT + GAP, "limit", -GAP),
    )
    against = "the file itself" if run.unknown else "PyTorch"
    note = (
        f"The timed output against {against} in float64. The strong dot is of ordinary images, the"
        " faint ones are of adversarial inputs; right of the line is too much."
    )
    return Section("parity", "Parity", chart, note)


def _strip(entry: Entry, scale: Scale) -> Strip:
    shares, y = _shares(entry), _HEIGHT / 2
    pale = [(scale.fraction(share), y) for _, share in shares[1:]]
    parts = [
        marks.dots(pale, _HEIGHT, "large muted"),
        marks.point(scale.percent(shares[0][1]), y, "accent"),
    ]
    parity = entry.row.parity
    error = None if parity is None else parity.max_error
    text = "not finite" if error is None else f"max error {error:.1e}"
    kinds = "".join(f"\n{name}: {share:.2g}" for name, share in shares)
    return Strip(entry.name, text, join(*parts), entry.number, f"{entry.name}{kinds}")


def _worst(entry: Entry) -> float:
    return max(share for _, share in _shares(entry))


def _shares(entry: Entry) -> list[tuple[str, float]]:
    """Kinds of input with their largest error over the allowed one."""
    parity = entry.row.parity
    if parity is None:
        return []
    kinds = [
        (kind.name, kind.max_error, kind.allowed)
        for kind in parity.inputs
        if kind.max_error is not None and kind.allowed > 0
    ] or [
        (limit.name, limit.actual, limit.allowed)
        for limit in parity.limits
        if limit.name == "max_error" and limit.allowed > 0
    ]
    return [(name, max(_LEAST, error / allowed)) for name, error, allowed in kinds]
