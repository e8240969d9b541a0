"""Labeled images for a whole benchmark: selected, checked and run through PyTorch once, before
any timing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact
from resnext.errors import BadInput
from resnext.images.sources import image_source
from resnext.machine.environment import Environment
from resnext.runtimes.session import Session
from resnext.storage import cache_folder

from .accuracy import Accuracy, measure_accuracy, reference_logits_for

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


class Labeled:
    """Test images of one source with PyTorch's float32 logits for them.

    Logits are stored by chunk in the cache, so that an interrupted run resumes where it stopped.

    Args:
        spec: ``digits``, ``fashion-mnist`` or a folder in ImageNet's layout.
        weights: the network.
        limit: size of a seeded sample, balanced over classes; None means all images.
        folder: where logits are stored; None means the toolkit's cache.

    Raises:
        BadInput: no such images, or not this network's.
        MissingRequirement: a package is missing, or the cache folder cannot be written to.
    """

    def __init__(
        self, spec: str, weights: Weights, limit: int | None = None, folder: Path | None = None
    ) -> None:
        self._folder = folder or cache_folder() / "accuracy"
        self._preprocessing = weights.preprocessing
        self._preprocessing_source = weights.preprocessing_source
        self.source = image_source(
            spec,
            weights.preprocessing,
            split="test",
            limit=limit,
            classes=weights.config.num_classes,
            class_names=weights.class_names,
        )
        if self.source.labels is None:
            raise BadInput(
                f"{spec} has no labels to measure accuracy on; set `accuracy` to a folder with one"
                " subfolder for each class"
            )
        self._reference = reference_logits_for(weights, self.source, self._folder)

    def measure(
        self,
        session: Session,
        batch: int,
        artifact: Artifact | None,
        environment: Environment | None = None,
    ) -> Accuracy:
        """Run every image through ``session`` at ``batch``; an interrupted run of a file resumes.

        Args:
            session: the candidate.
            batch: images in one run.
            artifact: the artifact that the session runs; None for a live model.
            environment: machine and software; None records it now.

        Raises:
            ResnextError: whatever `measure_accuracy` raises.
        """
        manifest = None if artifact is None else artifact.manifest
        measured = measure_accuracy(
            session,
            self.source,
            self._reference,
            batch=batch,
            preprocessing=self._preprocessing,
            baked=manifest is not None and manifest.preprocessing_baked,
            resume=None if manifest is None else self._folder,
            artifact_sha256=None if manifest is None else manifest.file_sha256,
            environment=environment,
        )
        return measured.model_copy(update={"preprocessing_source": self._preprocessing_source})
