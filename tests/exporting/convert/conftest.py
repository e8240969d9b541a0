from __future__ import annotations

import pytest

from resnext_export.convert import onnx_from_torch as converter
from traced import TRACE


@pytest.fixture(autouse=True)
def _traced_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about tracing itself."""
    monkeypatch.setattr(converter, "_export", TRACE)
