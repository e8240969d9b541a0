"""A calm machine for tests that are not about measuring: others use the processors of a test
machine, and their times prove nothing.
"""

from __future__ import annotations

import pytest

from resnext.machine.load import Counters, Load, Meter


class QuietMeter(Meter):
    """Reports that nobody else used the processors."""

    def since(self, before: Counters) -> Load:  # noqa: ARG002  # as the real one
        """A quiet load."""
        return Load(wall_s=1.0, processors=2, cores=2, own=1.0, others=0.0, stolen=0.0, waiting=0.0)


def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no row be disturbed, unsteady or imprecise, and no noise floor too high."""
    monkeypatch.setattr("resnext_bench.measure.Meter", QuietMeter)
    monkeypatch.setattr("resnext.timing.clock.SETTLE_S", 0.0)
    for limit in ("MOST_DRIFT", "MOST_ABOVE_QUIETEST"):
        monkeypatch.setattr(f"resnext_bench.steadiness.{limit}", 1e9)
    monkeypatch.setattr("resnext_bench.checks.imprecise.MOST", 1e9)
    monkeypatch.setattr("resnext_bench.control.Control.quiet", True)
