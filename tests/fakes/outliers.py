"""Weights with a channel that is far wider than the others: the same function, hard to quantize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from resnext.weights.spec import Weights


def with_outliers(weights: Weights, factors: Mapping[str, Mapping[int, float]]) -> Weights:
    """``weights`` with some channels multiplied, and divided again where they are read.

    Args:
        weights: a trained network's.
        factors: by the convolution that writes the channels (``layer1.0.conv1`` or ``.conv2``), the
            factor of each channel.
    """
    state = dict(weights.state_dict)
    for name, channels in factors.items():
        block, index = name[:-1], int(name[-1])
        norm = f"{block.removesuffix('conv')}bn{index}"
        reader = f"{block}{index + 1}.weight"
        for key in (f"{norm}.weight", f"{norm}.bias", reader):
            state[key] = state[key].clone()
        outputs, width = state[reader].shape[:2]
        groups = len(state[f"{norm}.weight"]) // width
        for channel, factor in channels.items():
            for part in ("weight", "bias"):
                state[f"{norm}.{part}"][channel] *= factor
            group, place = divmod(channel, width)
            rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
            state[reader][rows, place] /= factor
    return replace(weights, state_dict=state)
