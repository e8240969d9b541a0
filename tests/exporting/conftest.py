from __future__ import annotations

import pytest

from resnext.artifact import Artifact
from resnext.manifest import BatchRange
from resnext.weights import Weights, load_weights
from resnext_export.onnx_artifact import export_onnx


@pytest.fixture(scope="session")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="session")
def digits_artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("digits") / "artifact")


@pytest.fixture(scope="session")
def static_artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("static") / "artifact", batch=BatchRange.parse("3"))
