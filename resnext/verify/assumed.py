"""What it means that nobody says how a picture becomes the input."""

from __future__ import annotations

from resnext.findings import Finding
from resnext.images.preprocessing import Preprocessing, PreprocessingSource

CODE = "assumed-preprocessing"


def assumed(
    preprocessing: Preprocessing | None, source: PreprocessingSource | None
) -> Finding | None:
    """A warning for a preprocessing that is assumed; None if somebody vouches for it.

    A network that was trained with another one loses accuracy on every picture, and no comparison
    of logits shows it: reference and candidate see the same wrong pixels.

    Args:
        preprocessing: of the network; None if it is not known at all.
        source: who says so.
    """
    if source != "assumed" or preprocessing is None:
        return None
    return Finding(
        CODE,
        f"how a picture becomes the input of these weights is assumed: {preprocessing.summary()}",
        "if they were trained with another, set `resize` or `crop`, `interpolation`, `mean`, `std`",
        severity="warning",
    )
