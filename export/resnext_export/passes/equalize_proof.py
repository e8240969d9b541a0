"""Proof that an equalized graph computes what the original does; no code is the pass's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from resnext.errors import GateFailed

from .chains import chains
from .graph import convolutions, groups_of
from .initializers import Constants

_TOLERANCE = 1e-12


def prove_equalized(
    before: onnx.ModelProto, after: onnx.ModelProto, moved: Collection[str]
) -> float:
    """Prove that ``after`` computes what ``before`` does.

    Whole runs of chains are computed in float64 over a seeded random input, without strides and
    padding, which no weight depends on. All else must be equal byte for byte.

    Args:
        before: the model, weights inside.
        after: the equalized model.
        moved: names of the Convs whose output channels were moved.

    Returns:
        The largest difference of any run, relative to the root mean square of its output.

    Raises:
        GateFailed: names the run or node that differs.
    """
    worst = 0.0
    touched = set(moved)
    for convs in _runs(before.graph):
        names = [conv.name for conv in convs]
        touched |= {second for first, second in pairwise(names) if first in moved}
        error = _error(before.graph, after.graph, names)
        if not error <= _TOLERANCE:
            raise GateFailed(
                f"equalizing {names[0]} to {names[-1]} changed what they compute, by {error:.2g} of"
                " the root mean square"
            )
        worst = max(worst, error)
    odd = [
        name
        for (name, old), (_, new) in zip(
            _contents(before, touched), _contents(after, touched), strict=True
        )
        if old != new
    ]
    if odd:
        raise GateFailed(f"equalizing changed {odd[0]}, which it has no business with")
    return worst


def _runs(graph: onnx.GraphProto) -> list[list[onnx.NodeProto]]:
    """Chains joined where one's second Conv is the other's first."""
    runs: list[list[onnx.NodeProto]] = []
    for chain in chains(graph):
        for run in runs:
            if run[-1].name == chain.first.name:
                run.append(chain.second)
                break
        else:
            runs.append([chain.first, chain.second])
    return runs


def _error(before: onnx.GraphProto, after: onnx.GraphProto, names: Sequence[str]) -> float:
    """The largest difference of a run's outputs, relative to their root mean square.

    Relus are left out, so that every channel is seen; signs before them must be the same.
    """
    old, new = _parameters(before, names), _parameters(after, names)
    side = 1 + sum(weight.shape[-1] - 1 for weight, _, _ in old)
    weight, _, groups = old[0]
    shape = (1, weight.shape[1] * groups, side, side)
    wanted = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = wanted
    for was, now in zip(old, new, strict=True):
        wanted, found = (
            functional.conv2d(value, weight, bias, groups=groups)
            for value, (weight, bias, groups) in ((wanted, was), (found, now))
        )
        if not torch.equal(wanted.sign(), found.sign()):
            return inf
    return float(abs(found - wanted).max() / (wanted**2).mean().sqrt().clamp(min=1e-300))


def _parameters(
    graph: onnx.GraphProto, names: Sequence[str]
) -> list[tuple[torch.Tensor, torch.Tensor | None, int]]:
    """Weight, bias and groups of each Conv, float64."""
    constants = Constants(graph)
    convs = {conv.name: conv for conv in convolutions(graph, names)}
    parts = []
    for conv in (convs[name] for name in names):
        weight, *bias = (
            torch.from_numpy(numpy_helper.to_array(constants[name]).astype(np.float64))
            for name in conv.input[1:]
        )
        parts.append((weight, bias[0] if bias else None, groups_of(conv)))
    return parts


def _contents(proto: onnx.ModelProto, without: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The model's parts by name: nodes with their constants, but for the Convs ``without``."""
    constants = Constants(proto.graph)
    for node in proto.graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        kept = node.name not in without
        values = []
        for slot, name in enumerate(node.input):
            if name in constants:
                bare.input[slot] = ""
                values.append(numpy_helper.to_array(constants[name]).tobytes() if kept else b"")
        yield f"node {node.name}", (bare.SerializeToString(deterministic=True), values)
    outside = onnx.ModelProto()
    outside.CopyFrom(proto)
    for field in ("node", "initializer", "value_info"):
        outside.graph.ClearField(field)
    yield "inputs, outputs or metadata", outside.SerializeToString(deterministic=True)
