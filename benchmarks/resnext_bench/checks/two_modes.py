"""# two-modes

A warning: the samples fall into two groups with a gap between them, so the median is the time of
one group, or of nothing in between. Usual causes: two clock speeds, memory that lies on another
node, a thread that sometimes gets a slower core, a branch in the runtime.

What to do: look at the raw samples in the run's JSON file. Judge by the slower group if both are
going to happen in production.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from resnext.findings import Finding

from .evidence import Evidence

CODE = "two-modes"
#: Fewer samples say nothing about a distribution.
LEAST_SAMPLES = 40
#: Smallest share of the samples that makes a group.
LEAST_SHARE = 0.1
#: Least difference of the groups' means, relative, and in their joint standard deviations. Cutting
#: a normal distribution in half gives 2.65, a uniform one 3.46.
LEAST_GAP = 0.05
LEAST_DISTANCE = 4.5


def two_modes(samples: Sequence[int]) -> tuple[float, float, float] | None:
    """The two groups of ``samples``: mean of the lower, mean of the upper, and its share; None if
    there is one group.
    """
    if len(samples) < LEAST_SAMPLES:
        return None
    ordered = np.sort(np.asarray(samples, float))
    count = len(ordered)
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    below = np.arange(1, count)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (count - below)
    within = squares[-1] - below * low**2 - (count - below) * high**2
    cut = int(np.argmin(within)) + 1  # the split with the least variance within the groups
    groups = ordered[:cut], ordered[cut:]
    means, share = [float(group.mean()) for group in groups], (count - cut) / count
    spread = float(np.sqrt(sum(group.var() for group in groups))) or 1e-9
    apart = np.sqrt(2) * (means[1] - means[0]) / spread >= LEAST_DISTANCE
    wide = means[1] >= means[0] * (1 + LEAST_GAP)
    if apart and wide and LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        return means[0], means[1], share
    return None


def findings(evidence: Evidence) -> Iterator[Finding]:
    """A warning for each boundary whose undisturbed samples have two modes."""
    for timing in evidence.timings:
        modes = two_modes([sample for burst in timing.quiet_ns.values() for sample in burst])
        if modes is not None:
            low, high, share = modes
            yield Finding(
                CODE,
                f"the {timing.boundary} times have two modes: {1 - share:.0%} of the runs take"
                f" about {low / 1e6:.3f} ms and {share:.0%} about {high / 1e6:.3f} ms",
                severity="warning",
            )
