"""What agreement means for weights that were never trained."""

from __future__ import annotations

from resnext.artifact.manifest import Manifest
from resnext.findings import Finding

CODE = "untrained-weights"


def untrained(manifest: Manifest) -> Finding | None:
    """A warning for a quantized artifact of seeded weights; None for any other.

    Logits of a trained network are far apart, and rounding to 8 bits flips few of them. Those of a
    seeded network are close together, and it may flip most: the share of agreement says nothing
    about quantization. Times do not depend on the weights.
    """
    if manifest.quantization is None or not manifest.weights.seeded:
        return None
    return Finding(
        CODE,
        f"the weights are seeded, not trained, so the accuracy of this {manifest.precision} file"
        " means nothing; its speed is valid",
        "to judge accuracy, export with trained weights",
        severity="warning",
    )
