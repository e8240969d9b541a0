"""Judges the artifacts of a search, all on the same images and by the same gate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from resnext.artifact.files import Artifact
from resnext.verify.check import check
from resnext.verify.parity import Parity
from resnext.weights.spec import Weights

from .record import Attempt


@dataclass(frozen=True)
class Judge:
    """The gate of a search.

    Attributes:
        weights: the network.
        runtime: runs the artifacts.
        batch: images in one run, or None.
        images: number of images.
        seed: of the images.
        images_from: where they come from, or None for seeded ones.
        gate: name of the gate.
        agreement: least share of images whose first class is the reference's, or None.
    """

    weights: Weights
    runtime: str
    batch: int | None = None
    images: int = 28
    seed: int = 0
    images_from: str | None = None
    gate: str = "default"
    agreement: float | None = None

    def __call__(
        self, artifact: Artifact, keep: Collection[str] = (), changes: Collection[str] = ()
    ) -> tuple[Attempt, Parity]:
        """Judge ``artifact``, in which ``keep`` and ``changes`` were changed."""
        outcome = check(
            artifact,
            weights=self.weights,
            runtime=self.runtime,
            batch=self.batch,
            images=self.images,
            seed=self.seed,
            images_from=self.images_from,
            gate=self.gate,
        )
        failures = [*outcome.failures, *self._disagreement(outcome)]
        attempt = Attempt(
            keep=tuple(keep),
            changes=tuple(changes),
            passed=not failures,
            failures=tuple(failures),
            mean_error=outcome.mean_error,
            top1=outcome.top1,
            artifact_sha256=artifact.manifest.file_sha256,
        )
        return attempt, outcome

    def _disagreement(self, outcome: Parity) -> list[str]:
        least = self.agreement
        if least is None or (outcome.top1 is not None and outcome.top1 >= least):
            return []
        share = 0.0 if outcome.top1 is None else outcome.top1
        return [f"top-1 agrees on {share:.2%} of {outcome.rows} images, allowed {least:.2%}"]
