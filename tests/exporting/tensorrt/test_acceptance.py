"""Checking an ONNX file against TensorRT, from Python."""

from __future__ import annotations

import pytest

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import EngineOptions
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver
from resnext.runtimes.trt.library import Library
from resnext_export.tensorrt.acceptance import check_onnx


def test_the_driver_is_asked_once(
    rtx: Library, digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = []

    def ask() -> Driver:
        questions.append("driver")
        return Driver("the NVIDIA driver is not installed")

    monkeypatch.setattr(cuda_driver, "probe_driver", ask)
    options = EngineOptions(profiles=(BatchRange.parse("1:2:4"),))
    outcome = check_onnx(digits_artifact.path, rtx, options, {})
    assert outcome.accepted
    assert questions == ["driver"]
