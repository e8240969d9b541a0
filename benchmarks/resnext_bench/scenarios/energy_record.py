"""The record of an energy pass."""

from __future__ import annotations

from resnext.artifact.specs import Strict


class EnergyUse(Strict):
    """Energy by one source.

    Attributes:
        source: what used it: ``GPU``, or ``CPU`` for all processor packages.
        method: how it was counted.
        joules_per_image: everything that the source used during the pass, over the images; None if
            it could not be told.
        idle_w: power just before the pass, with the session open and idle; None as before.
        power_w: mean power during the pass.
        reason: why something is None; "" otherwise.
    """

    source: str
    method: str
    joules_per_image: float | None = None
    idle_w: float | None = None
    power_w: float | None = None
    reason: str = ""

    @property
    def above_idle(self) -> float | None:
        """Joules an image beyond what the idle source would have used in that time."""
        if self.joules_per_image is None or self.idle_w is None or not self.power_w:
            return None
        return self.joules_per_image * (1 - self.idle_w / self.power_w)


class EnergyRecord(Strict):
    """Energy of back-to-back runs, in a pass apart from the timed rounds.

    Attributes:
        images: in the pass.
        seconds: length of the pass.
        uses: by source.
        problems: counters that this machine has and that could not be read, in words.
    """

    images: int
    seconds: float
    uses: tuple[EnergyUse, ...]
    problems: tuple[str, ...] = ()
