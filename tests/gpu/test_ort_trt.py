"""ONNX Runtime over TensorRT and TensorRT-RTX: PyTorch's function, every node in TensorRT, engines
reused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.runtimes.availability import available
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.parity import compare, gate_for
from resnext.weights.spec import Weights

BATCHES = (1, 8)


@pytest.fixture(scope="module", params=["ort-trt", "ort-trt-rtx"])
def name(request: pytest.FixtureRequest) -> str:
    if found := available(request.param):
        pytest.skip(str(found))
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A separate cache folder, so that engines are built and not reused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_CACHE_DIR", str(tmp_path_factory.mktemp("ort-trt")))
        yield


@pytest.fixture(scope="module")
def limited(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Batches up to 8, so that one engine serves them all."""
    folder: Path = tmp_path_factory.mktemp("limited")
    batch = BatchRange(min=1, opt=8, max=8)
    return export_onnx(weights, folder / "artifact", batch=batch, precision="fp16", check=False)


def test_bound_and_host_runs_are_float64s(
    name: str, limited: Artifact, images: Any, reference: Any, baseline: Any
) -> None:
    with open_session(limited, name, options=SessionOptions(cuda_graph=False)) as session:
        for batch in BATCHES:
            bound = session.bind({"input": images[:batch]})
            bound.enqueue()
            bound.synchronize()
            for logits in (
                bound.fetch()["logits"],
                session.run({"input": images[:batch]})["logits"],
            ):
                outcome = compare(
                    reference[:batch], logits, gate=gate_for("fp16"), baseline=baseline[:batch]
                )
                assert outcome.passed, (batch, outcome.failures)
        found = session.delivered()
    assert sum(layer.op in ("Conv", "Gemm") for layer in found.layers) == 54


def test_a_graph_replays_what_is_bound(
    name: str, limited: Artifact, images: Any, reference: Any, baseline: Any
) -> None:
    with open_session(limited, name, options=SessionOptions(cuda_graph=True)) as session:
        for rows in (slice(0, 8), slice(8, 16)):
            bound = session.bind({"input": images[rows]})
            assert bound.boundary == "graph"
            bound.enqueue()
            bound.synchronize()
            logits = bound.fetch()["logits"]
            outcome = compare(
                reference[rows], logits, gate=gate_for("fp16"), baseline=baseline[rows]
            )
            assert outcome.passed, outcome.failures
