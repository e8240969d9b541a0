"""Labels of the pictures of some shards, as indices and names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnext.errors import BadInput

from .parquet import ParquetShard
from .shard import Picture, Shard


def classes_of(
    path: Path, shards: Sequence[Shard], pictures: Sequence[Picture]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """The index of each picture's class, int64, and names of the classes, by index.

    Returns:
        None for the indices if a picture has no label. No names if labels are numbers without
        names: they are then the network's own indices.

    Raises:
        BadInput: some labels are numbers and some names, or one is no index of the names that the
            files give.
    """
    labels = [picture.label for picture in pictures]
    numbers = [label for label in labels if isinstance(label, int)]
    texts = [label for label in labels if isinstance(label, str)]
    if len(numbers) + len(texts) < len(labels) or not labels:
        return None, ()
    if numbers and texts:
        raise BadInput(f"some labels in {path} are numbers, such as {numbers[0]}, and some names")
    if texts:
        names = sorted(set(texts))
        place = {name: index for index, name in enumerate(names)}
        return np.array([place[text] for text in texts], np.int64), tuple(names)
    given = {shard.class_names for shard in shards if isinstance(shard, ParquetShard)} - {()}
    if len(given) > 1:
        raise BadInput(f"the files in {path} name their classes differently")
    class_names = next(iter(given), ())
    low, high = min(numbers), max(numbers)
    if low < 0 or high >= (len(class_names) or 1 << 31):
        raise BadInput(f"{path} has labels {low} to {high} and {len(class_names)} names of classes")
    return np.array(numbers, np.int64), class_names
