"""What weights and activations predict of lower precisions, before any graph is made."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnext.images.synthetic import seeded_pixels
from resnext.network.forms import fold_batch_norms
from resnext.precision import PRECISIONS
from resnext.weights.spec import Weights, load_model
from resnext_export import refused_by_half

from .facts import Values

#: Seeded images that go through the network.
IMAGES = 2


def values_of(weights: Weights) -> Values:
    """Read the weights, batch norms folded into them as an export does, and compute a few images.

    ResNeXt-50 takes a second or two.

    Args:
        weights: of a network; not altered.
    """
    model = fold_batch_norms(load_model(weights))
    tensors = {name: value.numpy() for name, value in model.named_parameters()}
    refusals = {name: refused_by_half(tensors, name) for name in ("fp16", "bf16")}
    return Values(
        refused={name: str(each) for name, each in refusals.items() if each is not None},
        vanishing=vanishing(tensors),
        largest=largest_activation(model, weights),
        images=IMAGES,
    )


def vanishing(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[str, float]]:
    """The layer in which most nonzero weights round to zero, and their share, by grid.

    Args:
        tensors: by name; convolutions' weights have four dimensions and a scale for each output
            channel (axis 0).
    """
    found = {}
    for grid in ("int8", "int8 in 7 bits", "fp8"):
        worst = ("", 0.0)
        for name, weight in tensors.items():
            if weight.ndim != 4 or not (count := np.count_nonzero(weight)):
                continue
            zeros = np.count_nonzero((_rounded(weight, grid) == 0) & (weight != 0))
            worst = max(
                worst, (name.removesuffix(".weight"), zeros / count), key=lambda each: each[1]
            )
        found[grid] = worst
    return found


def largest_activation(model: nn.Module, weights: Weights) -> tuple[str, float]:
    """Name of the layer or block with the largest activation, and its size; NaN counts as largest.

    Args:
        model: with folded batch norms, in eval mode.
        weights: of it, for configuration and preprocessing.
    """
    seen: dict[str, float] = {}

    def note(name: str, value: torch.Tensor) -> None:
        size = float(value.abs().max())
        before = seen.get(name, 0.0)
        seen[name] = before if before >= size or math.isnan(before) else size

    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: note(name, out))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    handles += [
        module.register_forward_pre_hook(
            lambda _m, inputs, name=name: note(f"the sum of {name.rpartition('.')[0]}", inputs[0])
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU) and name.startswith("layer")
    ]
    pixels = weights.preprocessing.normalize(seeded_pixels(weights.config, IMAGES))
    try:
        with torch.inference_mode():
            model(torch.from_numpy(pixels))
    finally:
        for handle in handles:
            handle.remove()
    return _largest(seen)


def _largest(seen: Mapping[str, float]) -> tuple[str, float]:
    # A layer comes before the sum that its output goes into, and is to blame for NaN.
    broken = [(name, size) for name, size in seen.items() if not np.isfinite(size)]
    return broken[0] if broken else max(seen.items(), key=lambda each: each[1])


def _rounded(weight: NDArray[np.float32], grid: str) -> NDArray[np.float32]:
    """``weight`` on a grid whose largest value is that of each output channel, in steps."""
    peaks = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    peaks[peaks == 0] = 1
    if grid == "fp8":
        scaled = weight / peaks * np.float32(PRECISIONS["fp8"].largest)
        return np.asarray(scaled.astype(ml_dtypes.float8_e4m3fn), np.float32)
    levels = 64 if "7 bits" in grid else 127
    return np.asarray(np.rint(weight / peaks * levels), np.float32)
