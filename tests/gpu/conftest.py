"""All tests in this folder need a CUDA device, and are skipped if the driver lists none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.images.synthetic import seeded_pixels
from resnext.machine.cuda_driver import probe_driver
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.eager import reference_logits
from resnext.weights.spec import Weights, load_weights

LARGEST_BATCH = 256
#: Float64 on the host's processor is slow: the first images are compared, whatever the batch.
COMPARED = 16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    driver = probe_driver()
    # The acceptance gives the tests what time is left: what was never seen comes first, and those
    # that compile for long come last.
    items.sort(
        key=lambda item: (
            "torch-compile" in item.name or "test_pt2" in item.nodeid,
            "test_fused_kernels" not in item.nodeid,
        )
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if driver.problem is not None:
                item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {driver.problem}"))


@pytest.fixture(scope="session")
def weights() -> Weights:
    return load_weights("seeded", "resnext50_32x4d")


@pytest.fixture(scope="session")
def exported(
    weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Precision], Artifact]:
    """ONNX artifacts by precision, made when first used: live sessions need none.

    Unchecked, since tests compare what is built from them with float64.
    """
    folder = tmp_path_factory.mktemp("gpu")

    @functools.cache
    def make(precision: Precision) -> Artifact:
        return export_onnx(weights, folder / precision, precision=precision, check=False)

    return make


@pytest.fixture(scope="session")
def artifact(exported: Callable[[Precision], Artifact]) -> Artifact:
    return exported("fp32")


@pytest.fixture(scope="session")
def artifact_fp16(exported: Callable[[Precision], Artifact]) -> Artifact:
    return exported("fp16")


@pytest.fixture(scope="session")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, LARGEST_BATCH))


@pytest.fixture(scope="session")
def reference(weights: Weights, images: Any) -> Any:
    return reference_logits(weights, images[:COMPARED])


@pytest.fixture(scope="session")
def baseline(weights: Weights, images: Any) -> Any:
    """What eager PyTorch gives in fp16, on the GPU: what anybody would lose at that precision."""
    with open_session(
        weights, "torch", options=SessionOptions(device="cuda", precision="fp16")
    ) as session:
        return session.run({"input": images[:COMPARED]})["logits"]
