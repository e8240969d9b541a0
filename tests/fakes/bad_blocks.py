"""Weights with a block that loses a lot in low precision, and nothing in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resnext.weights.spec import Weights


def huge_range(weights: Weights, layer: str, before: str, channel: int = 3) -> Weights:
    """``layer`` has enormous weights for a channel that is always zero, so that an int8 step is
    larger than all of its others.

    Args:
        weights: a trained network's.
        layer: the convolution.
        before: the block or stem that writes what it reads: its channel is switched off.
        channel: which channel.
    """
    state = _copied(weights)
    norms = ("bn1",) if before == "conv1" else (f"{before}.bn3", f"{before}.downsample.1")
    for norm in norms:
        for part in ("weight", "bias"):
            if f"{norm}.{part}" in state:
                state[f"{norm}.{part}"][channel] = 0
    state[f"{layer}.weight"][:, channel] = 1e5
    return _with(weights, state)


def outlier(weights: Weights, norm: str, readers: tuple[str, ...], channel: int = 3) -> Weights:
    """What ``norm`` gives has a channel far beyond all others that none of ``readers`` reads, so
    that one int8 step is larger than what the others hold.
    """
    state = _copied(weights)
    state[f"{norm}.bias"][channel] += 5000
    for reader in readers:
        state[f"{reader}.weight"][:, channel] = 0
    return _with(weights, state)


def tiny_channels(weights: Weights, block: str, factor: float = 1e-4) -> Weights:
    """All channels but one between the first two convolutions of ``block`` are next to nothing, and
    the next convolution makes up for it.
    """
    state = _copied(weights)
    for part in ("weight", "bias"):
        state[f"{block}.bn1.{part}"][1:] *= factor
    conv2 = state[f"{block}.conv2.weight"]
    width = conv2.shape[1]
    outputs = len(conv2) * width // len(state[f"{block}.bn1.weight"])
    conv2 /= factor
    conv2[:outputs, 0] *= factor
    return _with(weights, state)


def scaled_channel(
    weights: Weights, norm: str, reader: str, factor: float, channel: int = 3
) -> Weights:
    """A channel of ``norm`` is ``factor`` times as large, which ``reader`` undoes."""
    state = _copied(weights)
    for part in ("weight", "bias"):
        state[f"{norm}.{part}"][channel] *= factor
    state[f"{reader}.weight"][:, channel] /= factor
    return _with(weights, state)


def cancelling_classifier(weights: Weights, block: str, size: float = 300.0) -> Weights:
    """Two features of the classifier are the same, with large weights that cancel.

    Args:
        weights: a trained network's.
        block: the last one.
        size: of these weights, over their own.
    """
    state = _copied(weights)
    same = tuple(f"{block}.{part}" for part in ("conv3", "bn3", "downsample"))
    for name, tensor in state.items():
        if name.startswith(same) and tensor.ndim:
            tensor[1] = tensor[0]
    state["fc.weight"][:, 0] += size
    state["fc.weight"][:, 1] -= size
    return _with(weights, state)


def _copied(weights: Weights) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in weights.state_dict.items()}


def _with(weights: Weights, state: dict[str, Any]) -> Weights:
    return replace(weights, state_dict=state)
