"""Artifacts that an earlier release wrote still load and still compute the same function.

Made at commit 4d7abfa, before modules moved into folders and before node notes lost their class
paths.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnext.artifact.files import read_artifact
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.images.synthetic import seeded_pixels
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.pt2.package import check_package_bytes
from resnext.runtimes.registry import natural_runtime, open_session
from resnext.runtimes.trt.identity import check_engine_bytes
from resnext.weights.spec import load_weights

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
#: Largest error of each, relative to the RMS of eager PyTorch's logits.
RUNNABLE = {
    "onnx-fp32": 1e-4,
    "onnx-fp16": 5e-2,
    "onnx-int8": 0.5,
    "openvino-fp32": 1e-4,
    "pt2-fp32": 1e-4,
}


def test_every_earlier_artifact_is_covered() -> None:
    assert {path.name for path in EARLIER.iterdir() if path.is_dir()} == {*RUNNABLE, "trt-rtx-fp32"}


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_earlier_artifact_computes_the_same_function(name: str) -> None:
    artifact = read_artifact(EARLIER / name)
    found = loadable(artifact.manifest, machine_for(artifact.manifest))
    if found and artifact.manifest.package is not None:  # compiled code; other files load anywhere
        pytest.skip(f"{name} does not load on this machine: {found[0].message}")
    assert not found
    check_onnx_precision(artifact)
    check_package_bytes(artifact)
    weights = load_weights(str(EARLIER / "tiny.safetensors"))
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 2, seed=0))
    with open_session(weights, "torch") as session:
        expected = session.run({session.inputs[0].name: images})[session.outputs[0].name]
    with open_session(artifact, natural_runtime(artifact)) as session:
        logits = session.run({session.inputs[0].name: images})[session.outputs[0].name]
    assert np.abs(logits - expected).max() <= RUNNABLE[name] * np.sqrt(np.mean(expected**2))


def test_an_earlier_engine_still_has_the_digest_in_its_manifest() -> None:
    check_engine_bytes(read_artifact(EARLIER / "trt-rtx-fp32"))
