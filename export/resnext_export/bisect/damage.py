"""How much each block loses in low precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.progress import Amount, Step
from resnext.runtimes.onnx_reference.evaluator import emulated_logits

#: Images that show what a block loses; an order needs fewer than a gate.
IMAGES = 16


def damages(
    blocks: list[str],
    alone: Callable[[str], Artifact],
    inputs: NDArray[Any],
    reference: NDArray[Any],
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Error of the logits with one block in low precision and all others in float.

    The error of the logits themselves, not a signal-to-noise ratio at the block's end: a channel
    that the next layer never reads may be lost without harm, and a small error where the network is
    sensitive is not small. It takes a conversion and a pass of few images for each block, on the
    reference evaluator, and so no runtime, no build and no GPU; whatever the file's own format is,
    its Q/DQ or types are those of the ONNX graph that it is made from. What only one runtime
    computes wrongly is not seen here: the order is then by chance, and the search still exact.

    Args:
        blocks: their names.
        alone: makes the ONNX artifact in which only that block is in low precision.
        inputs: images as the artifact takes them.
        reference: their logits, N x classes.
        announce: shows progress.
    """
    return dict(_measured(blocks, alone, inputs, reference, announce))


def _measured(
    blocks: list[str],
    alone: Callable[[str], Artifact],
    inputs: NDArray[Any],
    reference: NDArray[Any],
    announce: Callable[[str], None],
) -> Iterator[tuple[str, float]]:
    wanted = reference.astype(np.float64)
    amount = Amount(total=len(blocks))
    for done, block in enumerate(blocks):
        amount.done = done
        announce(Step(f"what {block} loses alone ({done + 1} of {len(blocks)})", amount))
        yield block, relative_error(emulated_logits(alone(block), inputs), wanted)


def relative_error(logits: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """Root mean square of the difference over that of ``wanted``; infinite if not finite."""
    difference = logits.astype(np.float64) - wanted
    if not np.isfinite(difference).all():
        return float("inf")
    return float(np.sqrt(np.mean(difference**2) / np.mean(wanted**2)))
