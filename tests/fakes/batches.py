"""Pipelines of batch inference around fake sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.batch.pipeline import Pipeline
from resnext.batch.plan import Planned
from resnext.batch.request import Request
from resnext.images.preprocessing import Preprocessing
from resnext.images.shards.find import find_shards
from resnext.images.shards.shard import Picture, Shard, shard_id
from resnext.testing import FakeSession

GRAY = Preprocessing(resize=8, crop=(8, 8), mean=(0.5,), std=(0.5,), color="L")
CLASSES = 3


class Listed(Shard):
    """A shard of given pictures."""

    def __init__(self, name: str, pictures: Sequence[Picture]) -> None:
        self.name, self._pictures = name, pictures
        self.pictures_known = self.weight = len(pictures)

    def listing(self) -> Iterable[str]:
        """Their keys."""
        return (picture.key for picture in self._pictures)

    def pictures(self) -> Any:
        """As given."""
        return iter(self._pictures)


def mixing(images: NDArray[Any]) -> NDArray[Any]:
    """Logits that depend on the whole batch, so that they tell how it was composed."""
    each = images.mean(axis=(1, 2, 3))
    places = np.arange(len(images), dtype=np.float32)
    return np.stack([each, each * 0 + (each * (places + 1)).sum(), places], axis=1)


def request_of(**changes: Any) -> Request:
    """A request for batches of four."""
    fields: dict[str, Any] = {
        "input": "in",
        "artifact_sha256": "0" * 64,
        "preprocessing": GRAY,
        "backend": "fake",
        "batch": 4,
        "top": 2,
        "logits": True,
        "format": "jsonl",
    }
    return Request(**(fields | changes))


def pipeline_of(
    output: Path, function: Any = mixing, request: Request | None = None, **options: Any
) -> Pipeline:
    """A pipeline around a session that computes ``function``."""
    session = FakeSession(function, (1, 8, 8), CLASSES)
    return Pipeline(session, request or request_of(), output, **options)


def planned(source: Path, request: Request | None = None) -> list[Planned]:
    """The shards of an input."""
    facts = (request or request_of()).facts
    return [Planned(shard_id(shard, facts), shard) for shard in find_shards(source)]
