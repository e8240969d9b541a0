"""# unsteady-machine

The rounds of a row are spread over the whole benchmark. If the interquartile range of their medians
is more than a quarter of their median, then the machine changed meanwhile: other work, a clock that
was held down, or a neighbor on the same host. The median is then a matter of chance.

What to do: stop other work, or give a longer `duration`.
"""

from __future__ import annotations

from collections.abc import Iterator

from resnext.findings import Finding

from .evidence import Evidence

CODE = "unsteady-machine"
#: Largest interquartile range of the rounds' medians, relative to their median.
MOST_ROUND_SPREAD = 0.25


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One for each boundary whose rounds differ too much."""
    for timing in evidence.timings:
        if timing.stats.round_spread > MOST_ROUND_SPREAD:
            yield Finding(
                CODE,
                f"the medians of the {timing.boundary} rounds spread by"
                f" {timing.stats.round_spread:.0%}: the machine was not steady",
                "stop other work, or give a longer `duration`",
            )
