"""AOTInductor packages on CUDA: PyTorch's function at every batch, a graph that gives what plain
launches give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exported import export_pt2
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import UsageError
from resnext.runtimes.pt2.record import loadable, this_host
from resnext.runtimes.pt2.toolchain import obstacle
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.parity import compare, gate_for
from resnext.weights.spec import Weights, load_weights

BATCHES = (1, 8, 64)
REASON = obstacle("cuda")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(scope="module")
def package(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Compiled once, for any batch: its own check has then run it on the GPU already."""
    folder = tmp_path_factory.mktemp("pt2") / "package"
    return export_pt2(weights, folder, batch=BatchRange.parse("1:8"), device="cuda")


def test_the_record_is_of_this_gpu_and_the_check_ran_on_it(package: Artifact) -> None:
    record, host = package.manifest.package, this_host()
    assert record is not None
    assert (record.device, record.compute_capability) == ("cuda", host.compute_capability)
    assert record.gpu
    assert loadable(package.manifest, host) == ()
    assert package.manifest.check is not None
    assert package.manifest.check.backend == "pt2"


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("batch", BATCHES)
def test_bound_and_host_runs_are_float64s(
    batch: int, graph: bool, package: Artifact, images: Any, reference: Any
) -> None:
    with open_session(
        package, "pt2", options=SessionOptions(device="cuda", cuda_graph=graph)
    ) as session:
        bound = session.bind({"input": images[:batch]})
        assert bound.boundary == ("graph" if graph else "device")
        bound.enqueue()
        bound.synchronize()
        for logits in (bound.fetch()["logits"], session.run({"input": images[:batch]})["logits"]):
            assert np.isfinite(logits).all()
            outcome = compare(reference[:batch], logits[: len(reference)])
            assert outcome.passed, outcome.failures


def test_binding_again_takes_the_new_input_and_batch(
    package: Artifact, images: Any, reference: Any
) -> None:
    with open_session(package, "pt2") as session:
        for rows in (slice(0, 8), slice(8, 16), slice(3, 4)):
            bound = session.bind({"input": images[rows]})
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed
            assert compare(reference[10:12], session.run({"input": images[10:12]})["logits"]).passed
            bound.enqueue()  # a run between must leave what is bound alone
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed


def test_everything_is_on_the_device_in_float32(package: Artifact) -> None:
    with open_session(package, "pt2") as session:
        assert session.bind({"input": np.zeros((1, 1, 8, 8), np.float32)}).cuda_stream
        delivered = session.delivered()
    heavy = [layer for layer in delivered.layers if layer.op in ("Conv", "Gemm")]
    assert len(heavy) == 54
    assert {layer.dtype for layer in heavy} == {"float32"}
    assert delivered.device.startswith("cuda")


def test_it_is_not_run_on_the_processor_instead(package: Artifact) -> None:
    with pytest.raises(UsageError, match="compiled for cuda; drop `device` cpu"):
        open_session(package, "pt2", options=SessionOptions(device="cpu"))


def test_half_precision_with_preprocessing_inside_is_proven_on_the_gpu(tmp_path: Any) -> None:
    artifact = export_pt2(
        load_weights("digits"),
        tmp_path / "half",
        batch=BatchRange.parse("8"),
        precision="fp16",
        bake_preprocessing=True,
        device="cuda",
    )
    check = artifact.manifest.check
    assert check is not None
    assert 1e-5 < check.max_error < check.tolerance  # and it is not float32 in disguise


@pytest.mark.parametrize("batch", ["8", "1:8"])
def test_our_kernels_run_inside_a_package_at_every_batch(
    batch: str, weights: Weights, images: Any, reference: Any, baseline: Any, tmp_path: Any
) -> None:
    """ResNeXt-50: 16 grouped convolutions, two products a block, one pool, and nothing beside."""
    sizes = BatchRange.parse(batch)
    artifact = export_pt2(
        weights,
        tmp_path / "fused",
        batch=sizes,
        precision="fp16",
        device="cuda",
        kernels="fused",
    )
    record = artifact.manifest.package
    assert record is not None
    ours = {"grouped_conv3x3": 16, "pointwise": 32, "max_pool": 1}
    assert {name: record.kernels.get(name) for name in ours} == ours
    assert artifact.manifest.check is not None
    assert 1e-5 < artifact.manifest.check.max_error < artifact.manifest.check.tolerance
    with open_session(artifact, "pt2", options=SessionOptions(device="cuda")) as session:
        assert session.delivered().notes["fused"] == "16 of 16 grouped convolutions"
        for size in (8,) if sizes.static else (1, 3, 8, 64):
            bound = session.bind({"input": images[:size]})
            bound.enqueue()
            bound.synchronize()
            logits = bound.fetch()["logits"]
            outcome = compare(
                reference[:size],
                logits[: len(reference)],
                gate=gate_for("fp16"),
                baseline=baseline[:size],
            )
            assert outcome.passed, outcome.failures
