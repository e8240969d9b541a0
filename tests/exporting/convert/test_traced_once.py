"""The tests' own shortcut: what was not changed is traced once, and what was is traced anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import traced
from resnext.artifact.manifest import BatchRange
from resnext.network.config import ResNeXtConfig
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export.convert import onnx_from_torch as converter
from traced import traced_once

BATCH = BatchRange.parse("1:8")


@pytest.fixture(scope="module")
def small() -> Weights:
    """One block: it is traced again and again."""
    return load_weights(
        "seeded", ResNeXtConfig((1,), 2, 4, (8, 8), num_classes=2, stem="small", stem_channels=8)
    )


def test_what_differs_is_traced_anew(small: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    with traced_once() as kept:
        first, again = (converter.onnx_from_torch(small, BATCH) for _ in range(2))
        assert first == again
        assert first is not again
        assert len(kept) == 1
        state = dict(small.state_dict)
        state["fc.bias"] = state["fc.bias"] + 1
        other = converter.onnx_from_torch(replace(small, state_dict=state), BATCH)
        assert other != first
        converter.onnx_from_torch(small, BatchRange.parse("1"))
        assert len(kept) == 3
        monkeypatch.setattr(converter, "load_model", lambda weights: _clipped(weights).eval())
        assert converter.onnx_from_torch(small, BATCH) != first
        assert len(kept) == 3


def test_a_trace_is_left_to_the_other_workers(
    small: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_once(tmp_path / "traced") as kept:
        first = converter.onnx_from_torch(small, BATCH)
    assert [path.name for path in (tmp_path / "traced").iterdir()] == list(kept)
    monkeypatch.setattr(traced, "TRACE", None)
    with traced_once(tmp_path / "traced"):
        assert converter.onnx_from_torch(small, BATCH) == first


def _clipped(weights: Weights) -> torch.nn.Module:
    model = load_model(weights)
    with torch.no_grad():
        model.fc.bias.zero_()
    return model
