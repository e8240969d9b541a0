"""Changes of the top-1 class, binned by how sure the reference was, and bounds of their rate."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resnext.artifact.specs import Strict

Count = Annotated[int, Field(ge=0)]

#: Confidence of the Clopper-Pearson bounds.
CONFIDENCE = 0.95
#: Upper ends of the bins of the reference's margin; the last bin is open.
MARGINS = (0.01, 0.03, 0.1, 0.3, 1.0)


class MarginBin(Strict):
    """Images binned by the reference's confidence margin.

    The margin is the difference of the reference's two largest logits, over the root mean square of
    all its logits.

    Attributes:
        below: upper end of the margins in this bin; None for the last bin.
        images: number of images in the bin.
        flips: number of them whose top-1 class changes.
    """

    below: float | None
    images: Count
    flips: Count


def margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference of the two largest of each row of N x classes; infinite for one class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf)
    ordered = np.sort(logits, axis=1)
    difference: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return difference


def flips_by_margin(
    logits: NDArray[np.float64], flipped: NDArray[np.bool_]
) -> tuple[MarginBin, ...]:
    """The bins of `MARGINS` and the open one.

    Args:
        logits: the reference's, N x classes, over their root mean square.
        flipped: N, whether the top-1 class changes.
    """
    place = np.searchsorted(MARGINS, margins(logits), side="right")
    return tuple(
        MarginBin(
            below=below,
            images=int((place == index).sum()),
            flips=int((flipped & (place == index)).sum()),
        )
        for index, below in enumerate((*MARGINS, None))
    )


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided confidence interval of a binomial proportion (Clopper and Pearson, 1934)."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high
