"""Predictions as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields

from resnext_bench.limits.floors import Ceiling

from .bounds import MISSES
from .machines import ASSUMED, MACHINES, Machine
from .sums import Sum, goals

#: Tables that can be shown.
SHOWN = ("sums", "goals", "saved", "launches", "machines", "assumed")


def shown(sums: Sequence[Sum], show: Iterable[str], saved: Mapping[str, int]) -> str:
    """Tables, by name; the launches of each pass under its name."""
    names = dict.fromkeys(each.machine for each in sums)
    made: dict[str, Callable[[], list[str]]] = {
        "sums": lambda: [sums_table(sums)],
        "goals": lambda: [goals_table(sums)],
        "saved": lambda: [
            f"Batch 64 saves {saved['projection'] / 1e6:,.0f} MB by projections in the last product"
            f" of their blocks, and {saved['pool'] / 1e6:,.0f} MB by bias and ReLU after the pool."
        ],
        "machines": lambda: [machine_table(MACHINES[name]) for name in names],
        "assumed": lambda: [assumed_table()],
        "launches": lambda: [
            f"{each.machine.upper()}, {each.precision}, batch {each.batch}:\n\n"
            + launches_table(each)
            for each in sums
        ],
    }
    return "\n\n".join(text for name in show for text in made[name]())


def sums_table(sums: Iterable[Sum]) -> str:
    """A row for each pass."""
    lines = [
        "| machine | precision | batch | predicted us | best to worst | images/s | best to worst"
        " | of floor | of own floor | through memory MB | ruled by |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for each in sums:
        best, expected, worst = (each.us(key) for key in ("best", "expected", "worst"))
        rules = Counter[str]()
        for one in each.passes["expected"]:
            rules[one.ruled_by] += round(one.us * 1000)
        shares = ", ".join(
            f"{name} {size / rules.total():.0%}" for name, size in rules.most_common(3)
        )
        megabytes = sum(one.memory_bytes for one in each.passes["expected"]) / 1e6
        lines.append(
            f"| {each.machine.upper()} | {each.precision} | {each.batch} | {expected:,.0f}"
            f" | {best:,.0f} to {worst:,.0f} | {each.batch / expected * 1e6:,.0f}"
            f" | {each.batch / best * 1e6:,.0f} to {each.batch / worst * 1e6:,.0f}"
            f" | {each.floor_us / expected:.0%} | {each.own_floor_us / expected:.0%}"
            f" | {megabytes:,.0f} | {shares} |"
        )
    return "\n".join(lines)


def goals_table(sums: Iterable[Sum]) -> str:
    """The goals, judged on paper."""
    lines = [
        f"| machine | precision | goal | at most | {' | '.join(ASSUMED)} |",
        "| --- | --- | --- | ---: | --- | --- | --- |",
    ]
    for each in sums:
        for goal, limit in goals(each):
            cells = (
                f"{'met' if each.us(key) <= limit else 'missed'}, {each.us(key):,.0f} us"
                for key in ASSUMED
            )
            lines.append(
                f"| {each.machine.upper()} | {each.precision} | batch {each.batch}: {goal}"
                f" | {limit:,.0f} us | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def launches_table(each: Sum) -> str:
    """A row for each launch; equal ones share a row."""
    rows: dict[str, list[str]] = {}
    for best, one, worst in zip(*(each.passes[key] for key in ASSUMED), strict=True):
        launch = one.launch
        bounds = " | ".join(f"{value:.1f}" if value else "-" for value in one.bounds.values())
        waste = f"{launch.macs / launch.useful:.2f}" if launch.useful else "-"
        row = (
            f"| {launch.kernel} | {launch.tile or '-'} | {launch.programs or '-'}"
            f" | {f'{one.waves:.2f}' if one.waves else '-'} | {one.memory_bytes / 1e6:.1f}"
            f" | {launch.bytes / 1e6:.1f} | {launch.macs / 1e9:.2f} | {waste} | {bounds}"
            f" | {one.us:.1f} | {best.us:.1f} to {worst.us:.1f} | {one.ruled_by}"
            f" | {MISSES[one.ruled_by]} |"
        )
        rows.setdefault(row, []).append(launch.name)
    head = [
        "launch",
        "kernel",
        "tile",
        "programs",
        "waves",
        "memory MB",
        "of MB",
        "GMAC",
        "of the network's",
        *(f"{name} us" for name in each.passes["expected"][0].bounds),
        "predicted us",
        "best to worst",
        "rules",
        "a miss would mean",
    ]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row, names in rows.items():
        also = f" x{len(names)}" if len(names) > 1 else ""
        lines.append(f"| {names[0]}{also} {row}")
    return "\n".join(lines)


def machine_table(machine: Machine) -> str:
    """Values and where they come from."""
    lines = [f"| {machine.name} | value | source |", "| --- | ---: | --- |"]
    for name, source in machine.sources.items():
        value = getattr(machine, name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {rate:.3g}" for key, rate in value.items())
        elif isinstance(value, Ceiling):
            value = f"{value.operations_per_s:.3g}, {value.bytes_per_s:.3g}"
        else:
            value = f"{value:.4g}"
        lines.append(f"| `{name}` | {value} | {source} |")
    return "\n".join(lines)


def assumed_table() -> str:
    """The sets of assumptions."""
    lines = [f"| assumed | {' | '.join(ASSUMED)} |", f"| --- |{' ---: |' * len(ASSUMED)}"]
    for field in fields(ASSUMED["expected"]):
        values = " | ".join(f"{getattr(each, field.name):g}" for each in ASSUMED.values())
        lines.append(f"| `{field.name}` | {values} |")
    return "\n".join(lines)
