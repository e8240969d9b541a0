from __future__ import annotations

import pytest

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.weights.spec import Weights, load_weights


@pytest.fixture(scope="session")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="session")
def digits_onnx(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("readers") / "onnx")
