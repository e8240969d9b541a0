"""From a value to its place on an axis, and the ticks of the axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Steps between ticks, times a power of ten.
_STEPS = (1.0, 2.0, 5.0, 10.0)
#: Marks at the ends of an axis keep this share of it free.
_MARGIN = 0.06
#: No value of a file makes an axis longer: its ends would overflow.
_MOST = 1e150


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: value at its start.
        high: value at its end, above ``low``.
        log: logarithmic; both ends are positive.
    """

    low: float
    high: float
    log: bool = False

    def fraction(self, value: float) -> float:
        """The place of ``value``: 0 at the start, 1 at the end; ends stand for what lies beyond."""
        low, high, value = map(self._on_axis, (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def percent(self, value: float) -> str:
        """The same as an SVG length."""
        return f"{100 * self.fraction(value):.2f}%"

    def ticks(self, count: int = 5) -> list[float]:
        """Round values on the axis, at most ``count`` of them."""
        return _log_ticks(self, count) if self.log else _linear_ticks(self, count)

    def _on_axis(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def linear(values: Iterable[float], *, zero: bool = False) -> Scale:
    """A linear axis that shows all finite ``values``, with a margin; from zero, if ``zero``."""
    found = [min(_MOST, max(-_MOST, value)) for value in values if math.isfinite(value)] or [0.0]
    low, high = (min([0.0, *found]) if zero else min(found)), max(found)
    room = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    return Scale(low if zero else low - room, high + room)


def logarithmic(values: Iterable[float]) -> Scale:
    """A logarithmic axis that shows all positive, finite ``values``, with a margin."""
    found = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    found = [min(_MOST, max(1 / _MOST, value)) for value in found]
    low, high = min(found), max(found)
    room = max((high / low) ** _MARGIN, 1.05)
    return Scale(low / room, high * room, log=True)


def number(value: float) -> str:
    """A value as people read it: three digits, or all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = abs(value)
    if size >= 1e15 or size < 1e-3:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many digits as tell them apart."""
    for digits in range(1, 8):
        texts = [f"{tick:.{digits}g}" for tick in ticks]
        same = zip(texts, ticks, strict=True)
        if all(abs(float(text) - tick) <= 1e-9 * abs(tick) for text, tick in same):
            break
    texts = [number(tick) if digits <= 3 else f"{tick:,.{digits}g}" for tick in ticks]
    return [
        text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text for text in texts
    ]


def _linear_ticks(scale: Scale, count: int) -> list[float]:
    span = scale.high - scale.low
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next((step * power for step in _STEPS if span / (step * power) <= count), 10 * power)
    first = math.ceil(scale.low / step - 1e-9)
    ticks = [round(index * step, 12) for index in range(first, first + count + 1)]
    return [tick for tick in ticks if tick <= scale.high * (1 + 1e-9)][:count]


def _log_ticks(scale: Scale, count: int) -> list[float]:
    low, high = math.log10(scale.low), math.log10(scale.high)
    if high - low < 0.5:  # less than a factor of three: as on a linear axis
        return _linear_ticks(Scale(scale.low, scale.high), count)
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if scale.low <= tick <= scale.high]
        if len(ticks) <= count:
            return ticks
    return ticks[:: -(-len(ticks) // count)]
