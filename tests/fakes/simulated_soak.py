"""A simulated process: its resident memory over minutes, with noise as processes have it.

Run as a script, it prints the table of docs/concepts/known-answers.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resnext_bench.scenarios.growth import Growth, growth
from resnext_bench.scenarios.soak_record import LEAST_LEAK, LEAST_SLOWDOWN

MB = 1e6


@dataclass(frozen=True)
class Noise:
    """What moves a process's memory without a leak, MB.

    Attributes:
        saw: most of what waits to be collected, again and again.
        steps: most single steps of pools, of up to 4 MB each.
        jitter: standard deviation of a reading.
    """

    saw: float
    steps: int
    jitter: float = 0.05


#: Measured, a session of ONNX Runtime on the CPU moved by less than 0.2 MB after its start.
NOISES = {
    "as measured": Noise(0.2, 0),
    "saw-tooth of up to 0.5 MB, up to 1 step": Noise(0.5, 1),
    "saw-tooth of up to 2 MB, up to 3 steps": Noise(2.0, 3),
}


def memory(
    rng: np.random.Generator, noise: Noise, minutes: float, leak: float
) -> Callable[[float], int]:
    """Resident bytes by seconds since the start of a process that leaks ``leak`` MB a minute, in
    pages that a heap takes 128 KiB at a time, and grows by up to 20 MB as it starts.
    """
    start, settles = rng.uniform(0, 20), rng.uniform(1, 8)
    saw, period, phase = rng.uniform(0, noise.saw), rng.uniform(2, 20), rng.uniform(0, 20)
    steps = [
        (rng.uniform(0, minutes * 60), rng.uniform(0.1, 4))
        for _ in range(rng.integers(0, noise.steps + 1))
    ]

    def resident(at_s: float) -> int:
        size = 200 + start * (1 - math.exp(-at_s / settles))
        size += saw * ((at_s + phase) % period / period) + rng.normal(0, noise.jitter)
        size += sum(step for when, step in steps if at_s > when)
        size += math.floor(leak * at_s / 60 / 0.131) * 0.131
        return int(size * MB)

    return resident


def latencies(
    rng: np.random.Generator, count: int, walk: float, slower: float, noise: float = 0.02
) -> list[float]:
    """Logarithms of a latency that ends ``slower``, on a machine that drifts by ``walk`` from each
    window to the next.
    """
    drift = rng.normal(0, walk, count).cumsum() + np.linspace(0, math.log1p(slower), count)
    return [float(value) for value in drift + noise * rng.standard_t(3, count)]


def leaks(found: Growth | None) -> bool:
    """As `SoakRecord.leaks` decides."""
    return found is not None and found.total[1] > 0 and found.total[0] >= LEAST_LEAK


def slower(found: Growth | None) -> bool:
    """As `SoakRecord.slower` decides."""
    return found is not None and found.total[1] > 0 and found.total[0] >= LEAST_SLOWDOWN


def leak_rate(noise: Noise, minutes: float, leak: float, seeds: Sequence[int]) -> float:
    """Share of simulated soaks that are called leaking."""
    count = 120
    at_s = [minutes * 60 * (index + 1) / count for index in range(count)]
    found = 0
    for seed in seeds:
        resident = memory(np.random.default_rng(seed), noise, minutes, leak)
        found += leaks(growth(at_s, [resident(each) for each in at_s], min))
    return found / len(seeds)


def slowdown_rate(walk: float, by: float, seeds: Sequence[int]) -> float:
    """Share of simulated soaks that are called slower."""
    at_s = [float(index + 1) for index in range(120)]
    found = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        found += slower(growth(at_s, latencies(rng, len(at_s), walk, by)))
    return found / len(seeds)


def main(trials: int) -> None:
    """Print the table."""
    seeds, lines = range(trials), list[str]()
    lines.append("| noise of the memory | minutes | no leak, called one | 1 MB a minute, found |")
    lines.append("| --- | ---: | ---: | ---: |")
    for label, noise in NOISES.items():
        for minutes in (2, 5, 10):
            rates = [leak_rate(noise, minutes, leak, seeds) for leak in (0.0, 1.0)]
            lines.append(f"| {label} | {minutes} | {rates[0]:.1%} | {rates[1]:.1%} |")
    lines.append("")
    lines.append(
        "| the machine drifts by, a window | no slowdown, called one | 20 % found | 50 % found |"
    )
    lines.append("| ---: | ---: | ---: | ---: |")
    for walk in (0.0, 0.002, 0.01):
        rates = [slowdown_rate(walk, by, seeds) for by in (0.0, 0.2, 0.5)]
        lines.append(f"| {walk:.1%} | {' | '.join(f'{rate:.1%}' for rate in rates)} |")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
