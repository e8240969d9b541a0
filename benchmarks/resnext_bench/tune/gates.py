"""Gates of a search: read from text, and held against what a candidate has.

A gate is a constraint: a candidate that misses one is never chosen, however fast it is. What is not
known does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Literal, TypeAlias

from resnext.errors import UnknownName, UsageError
from resnext.verify.accuracy import Accuracy

from .record import GateRecord

Unit: TypeAlias = Literal["share", "points", "ms", "MB"]


@dataclass(frozen=True)
class Kind:
    """What a gate can limit.

    Attributes:
        name: as it is spelled.
        unit: of limits and values.
        at_least: the limit is a lower bound.
        labeled: it takes labeled images to know.
        most: largest limit that makes sense, in ``unit``.
    """

    name: str
    unit: Unit
    at_least: bool = False
    labeled: bool = False
    most: float = inf

    @property
    def latency(self) -> bool:
        """Whether it is for ``slo``."""
        return self.unit == "ms"

    @property
    def percent(self) -> int:
        """The percentile of a latency."""
        return int(self.name[1:])


#: Every kind of gate by its name.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("agreement", "share", at_least=True, labeled=True, most=1.0),
            Kind("top1", "share", at_least=True, labeled=True, most=1.0),
            Kind("top1-loss", "points", labeled=True, most=100.0),
            Kind("size", "MB"),
            Kind("memory", "MB"),
            Kind("p50", "ms"),
            Kind("p90", "ms"),
            Kind("p99", "ms"),
        )
    }
)
#: Gates with labeled images, if the user names none that needs them: those that a row of a
#: benchmark has to pass (`resnext.verify.accuracy.accuracy_failures`).
USUAL = (
    GateRecord(name="agreement", actual=None, allowed=0.98, at_least=True, unit="share"),
    GateRecord(name="top1-loss", actual=None, allowed=1.0, unit="points"),
)
_ONE = re.compile(r"\s*([A-Za-z][\w-]*)\s*(>=|<=|==|=|<|>)\s*([-+.\dEe]+)\s*([A-Za-z%]*)\s*")
#: What a number is multiplied by to be in the unit of its kind.
_FACTORS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "share": {"": 1.0, "%": 0.01},
        "points": {"%": 1.0, "points": 1.0},
        "ms": {"us": 0.001, "ms": 1.0, "s": 1000.0},
        "MB": {"kB": 0.001, "MB": 1.0, "GB": 1000.0},
    }
)
_GIVE: Mapping[str, str] = MappingProxyType(
    {
        "share": "a share from 0 to 1, or %",
        "points": "points of top-1 as %",
        "ms": "ms or s",
        "MB": "MB or GB",
    }
)


def parsed_gates(gate: str | None, slo: str | None) -> tuple[GateRecord, ...]:
    """The limits of ``gate`` (agreement, top1, top1-loss, size, memory) and of ``slo`` (p50, p90,
    p99), without actual values, in this order.

    Args:
        gate: for example ``agreement>=0.99,top1-loss<=1%``; several are separated by commas.
        slo: for example ``p99<=20ms``.

    Raises:
        UnknownName: no such gate.
        UsageError: not of this form, without a unit, out of range, twice, or against each other.
    """
    found: dict[str, GateRecord] = {}
    for field, text in (("gate", gate), ("slo", slo)):
        for part in () if text is None else text.split(","):
            one = _parsed(part, field, found)
            if one.name in found:
                raise UsageError(
                    f"`{field}`: {one.name} is given twice, as {limit_text(found[one.name])} and"
                    f" {limit_text(one)}",
                    hint="give one",
                )
            found[one.name] = one
    return tuple(found.values())


def _parsed(part: str, field: str, earlier: Mapping[str, GateRecord]) -> GateRecord:
    slo, given = field == "slo", part.strip()
    match = _ONE.fullmatch(part)
    if match is None:
        example = "p99<=20ms" if slo else "agreement>=0.99,top1-loss<=1%"
        raise UsageError(f"`{field}` {given!r} is not a limit", hint=f"for example {example}")
    name, operator, text, unit = match.groups()
    if name not in KINDS or KINDS[name].latency != slo:
        if name in KINDS:
            other = "gate" if slo else "slo"
            raise UsageError(f"`{field}` {given!r}: {name} is for `{other}`", hint=f"set `{other}`")
        raise UnknownName(
            "gate", name, [kind.name for kind in KINDS.values() if kind.latency == slo]
        )
    kind = KINDS[name]
    wanted = ">=" if kind.at_least else "<="
    if operator[0] != wanted[0] and name in earlier:
        raise UsageError(
            f"`{field}`: {limit_text(earlier[name])} and {given} contradict each other: {name} has"
            f" {'a lower' if kind.at_least else 'an upper'} limit only",
            hint="drop one",
        )
    value = _value(kind, text, unit, field, given)
    if operator != wanted:
        raise UsageError(
            f"`{field}` {given!r}: {name} has {'a lower' if kind.at_least else 'an upper'} limit",
            hint=f"write {name}{wanted}{text}{unit}",
        )
    return GateRecord(name=name, actual=None, allowed=value, at_least=kind.at_least, unit=kind.unit)


def _value(kind: Kind, text: str, unit: str, field: str, given: str) -> float:
    """The limit in the unit of its kind.

    Raises:
        UsageError: not a number, without a unit, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"`{field}` {given!r}: {text!r} is not a number") from None
    factors, give = _FACTORS[kind.unit], _GIVE[kind.unit]
    if unit not in factors:
        problem = f"{unit!r} is no unit of {kind.name}" if unit else "the unit is missing"
        raise UsageError(f"`{field}` {given!r}: {problem}", hint=f"give {give}")
    value *= factors[unit]
    if kind.most == inf and not 0 < value < inf:
        raise UsageError(f"`{field}` {given!r}: {kind.name} must be above 0")
    if not 0 <= value <= kind.most:  # false for NaN, too
        most = "1 (100 %)" if kind.unit == "share" else "100 %"
        raise UsageError(f"`{field}` {given!r}: {kind.name} must be from 0 to {most}")
    return value


def limit_text(gate: GateRecord) -> str:
    """``gate`` as it is written: ``agreement>=0.99``, ``p99<=20ms``."""
    unit = {"share": "", "points": "%"}.get(gate.unit, gate.unit)
    return f"{gate.name}{'>=' if gate.at_least else '<='}{gate.allowed:g}{unit}"


def judged(
    gates: Sequence[GateRecord],
    *,
    accuracy: Accuracy | None = None,
    size_bytes: int | None = None,
    memory_bytes: int | None = None,
) -> tuple[GateRecord, ...]:
    """``gates`` with what is known of a candidate before it is timed; those on time stay open.

    Args:
        gates: the request's.
        accuracy: on labeled images.
        size_bytes: of its file.
        memory_bytes: peak that opening and its first runs added.
    """
    actual: dict[str, float | None] = {
        "size": None if size_bytes is None else size_bytes / 1e6,
        "memory": None if memory_bytes is None else memory_bytes / 1e6,
    }
    if accuracy is not None and not accuracy.nonfinite:
        lost = accuracy.losing_flips - accuracy.winning_flips  # counted: 0.96 - 0.95 is above 0.01
        actual |= {
            "agreement": accuracy.agreement,
            "top1": accuracy.top1,
            "top1-loss": 100 * lost / accuracy.images,
        }
    return tuple(
        gate if KINDS[gate.name].latency else with_actual(gate, actual.get(gate.name))
        for gate in gates
    )


def with_actual(gate: GateRecord, actual: float | None) -> GateRecord:
    """``gate`` with a candidate's value."""
    return gate.model_copy(update={"actual": actual})


def missed(gates: Sequence[GateRecord], *, latency: bool) -> GateRecord | None:
    """The first of ``gates`` that is not met.

    Args:
        gates: with actual values.
        latency: look at those on time; else at the others.
    """
    return next(
        (each for each in gates if KINDS[each.name].latency == latency and not each.passed), None
    )
