"""What weights and activations predict of lower precisions, before any graph is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnext.images.synthetic import seeded_pixels
from resnext.network.forms import fold_batch_norms
from resnext.network.model import Bottleneck
from resnext.precision import PRECISIONS
from resnext.weights.spec import Weights, load_model
from resnext_export import refused_by_half

from .facts import Values

#: Seeded images that go through the network.
IMAGES = 2
#: Calls of a block's only ReLU; the last one gets the sum with the shortcut.
_RELUS = 3
_Note: TypeAlias = Callable[[str, torch.Tensor], None]


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
        largest=telling(activations(model, weights)),
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


def activations(model: nn.Module, weights: Weights) -> dict[str, float]:
    """Sizes of the largest activations of a few seeded images, by layer or addition, in order of
    execution; before the ReLU that follows.

    Args:
        model: with folded batch norms, in eval mode.
        weights: of it, for configuration and preprocessing.
    """
    seen: dict[str, float] = {}
    calls: Counter[str] = Counter()

    def note(name: str, value: torch.Tensor) -> None:
        seen[name] = float(value.abs().max())

    def note_sum(block: str, value: torch.Tensor) -> None:
        calls[block] += 1
        if calls[block] == _RELUS:
            note(f"the sum of {block}", value)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hook = partial(_after, note, name)
            handles.append(module.register_forward_hook(hook))
        elif isinstance(module, Bottleneck):
            handles.append(module.relu.register_forward_pre_hook(partial(_before, note_sum, name)))
    pixels = weights.preprocessing.normalize(seeded_pixels(weights.config, IMAGES))
    try:
        with torch.inference_mode():
            model(torch.from_numpy(pixels))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _after(note: _Note, name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
    note(name, output)


def _before(note: _Note, name: str, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    note(name, inputs[0])


def telling(seen: Mapping[str, float]) -> tuple[str, float]:
    """The first activation beyond fp16, which is to blame for those behind it; else the largest."""
    limit = PRECISIONS["fp16"].largest
    beyond = [(name, size) for name, size in seen.items() if not size <= limit]
    return beyond[0] if beyond else max(seen.items(), key=lambda each: each[1])


def _rounded(weight: NDArray[np.float32], grid: str) -> NDArray[np.float32]:
    """``weight`` on a grid whose largest value is that of each output channel, in steps."""
    peaks = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    peaks[peaks == 0] = 1
    if grid == "fp8":
        scaled = weight / peaks * np.float32(PRECISIONS["fp8"].largest)
        return np.asarray(scaled.astype(ml_dtypes.float8_e4m3fn), np.float32)
    levels = 64 if "7 bits" in grid else 127
    return np.asarray(np.rint(weight / peaks * levels), np.float32)
