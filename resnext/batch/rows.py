"""Rows: what is written of each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.images.shards.shard import Picture

#: ``key``, ``label``, ``classes`` (None for a picture without a result), ``logits`` if requested,
#: ``error`` (None for one with a result).
Row: TypeAlias = dict[str, Any]
_NOT_FINITE = "the network gave NaN or infinite logits"


def rows_of(
    pictures: Sequence[Picture],
    problems: Mapping[int, str],
    logits: NDArray[Any] | None,
    *,
    top: int,
    with_logits: bool,
    class_names: Sequence[str],
) -> list[Row]:
    """The rows of one batch.

    Args:
        pictures: in order.
        problems: why a picture has no result, by its place.
        logits: N x classes, in the order of ``pictures``; further rows are padding. None if no
            picture could be read.
        top: number of classes in a row.
        with_logits: rows have all logits.
        class_names: by index, or none.
    """
    problems = dict(problems)
    values = np.zeros((0, 0)) if logits is None else logits[: len(pictures)].astype(np.float64)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    for place in np.flatnonzero(~finite).tolist():
        problems.setdefault(place, _NOT_FINITE)
    usable = np.where(finite[:, np.newaxis], values, 0)
    odds = np.exp(usable - usable.max(axis=1, keepdims=True, initial=-np.inf))
    odds /= odds.sum(axis=1, keepdims=True)
    order = np.argsort(-odds, axis=1, kind="stable")[:, :top]
    rows: list[Row] = []
    for place, picture in enumerate(pictures):
        row: Row = {"key": picture.key, "label": picture.label, "classes": None}
        if with_logits:
            row["logits"] = None
        row["error"] = problems.get(place)
        if row["error"] is None:
            row["classes"] = [
                {
                    "index": index,
                    "name": class_names[index] if class_names else None,
                    "probability": float(odds[place, index]),
                }
                for index in order[place].tolist()
            ]
            if with_logits:
                row["logits"] = values[place].tolist()
        rows.append(row)
    return rows
