"""`resnext.open_session`: whatever names a network, on the runtime that is natural for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exported import export_onnx
from resnext import open_session
from resnext.artifact.files import Artifact
from resnext.errors import BadInput, UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.runtimes.registry import SessionOptions
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights, load_weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("front") / "artifact", check=False)


def test_an_artifact_its_folder_its_file_weights_and_a_checkpoint_are_one_network(
    artifact: Artifact, weights: Weights, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "digits.safetensors"
    save_weights(weights, checkpoint)
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 2))
    opened_by, logits = [], []
    for subject in (artifact, artifact.directory, str(artifact.path), weights, str(checkpoint)):
        with open_session(subject, device="cpu") as session:
            opened_by.append(session.backend)
            logits.append(session(images))
    assert opened_by == ["ort", "ort", "ort", "torch", "torch"]
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], rtol=1e-3, atol=1e-4)


def test_a_field_by_name_is_over_the_options(artifact: Artifact) -> None:
    options = SessionOptions(device="cuda")
    with open_session(artifact, "ort-cpu", options=options, device="cpu") as session:
        assert session.backend == "ort-cpu"
    with pytest.raises(UsageError, match="runs on cpu only"):
        open_session(artifact, "ort-cpu", options=options)


def test_what_is_no_network_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        open_session(tmp_path)
    with pytest.raises(UnknownName, match="ort-cpu"):
        open_session(artifact, "ort-cpus")
