"""All precisions are complete in all tables, and a backend lists those that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from exported import derive_onnx, export_onnx
from resnext.artifact.files import Artifact
from resnext.artifact.specs import numpy_dtype
from resnext.cli.classify import main as classify
from resnext.errors import UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import PRECISIONS
from resnext.runtimes.buffers import from_host, host_view
from resnext.runtimes.registry import (
    RUNTIMES,
    SessionOptions,
    check_precision,
    natural_runtime,
    open_session,
)
from resnext.verify.eager import reference_logits
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights, load_weights
from resnext_export.request import ExportRequest


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def plain(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("precisions") / "fp32", check=False)


def derived(plain: Artifact, weights: Weights, folder: Path, recipe: ExportRequest) -> Artifact:
    return derive_onnx(plain, weights, folder / "derived", recipe, check=False)


def test_every_precision_has_a_gate_and_a_type_and_a_backend() -> None:
    for precision in PRECISIONS:
        assert PRECISIONS[precision].gate.max_error > 0
        assert all(
            numpy_dtype(name) if "8_" not in name else True
            for name in PRECISIONS[precision].compute_dtypes
        )
        assert [name for name, known in RUNTIMES.items() if precision in known.precisions]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("torch", "int8"),
        ("torch-compile", "fp8"),
        ("ort-cpu", "bf16"),
        ("ort-cuda", "int8"),
        ("ort-trt", "fp8"),
        ("openvino", "fp8"),
        ("ort", "fp8"),
    ],
)
def test_a_precision_that_a_backend_never_runs_is_refused_with_those_that_do(
    name: str, precision: Any
) -> None:
    with pytest.raises(
        UsageError, match=f"'{name}' does not run {precision}; use `backend` .*trt"
    ) as caught:
        check_precision(name, precision)
    assert f" {name}," not in str(caught.value)


def test_it_is_refused_before_anything_is_opened(
    plain: Artifact, weights: Weights, tmp_path: Path
) -> None:
    half = derived(plain, weights, tmp_path, ExportRequest(precision="bf16"))
    for name in ("ort", "ort-cpu"):
        with pytest.raises(UsageError, match="does not run bf16"):
            open_session(half, name)
    with pytest.raises(UsageError, match="does not run int8"):
        open_session(weights, "torch", options=SessionOptions(precision="int8"))


def test_the_natural_runtime_can_run_the_file(
    plain: Artifact, weights: Weights, tmp_path: Path
) -> None:
    assert natural_runtime(plain) == "ort"
    assert (
        natural_runtime(derived(plain, weights, tmp_path, ExportRequest(precision="bf16")))
        == "openvino"
    )


def test_bfloat16_goes_to_and_from_host_memory_bit_by_bit() -> None:
    values = np.array([1.0, -0.3, 65504.0, 1e30], np.float32).astype(numpy_dtype("bfloat16"))
    tensor = torch.empty(4, dtype=torch.bfloat16)
    host_view(tensor)[...] = values.view(np.int16)
    assert tensor.tolist() == values.astype(np.float32).tolist()
    back = from_host(tensor)
    assert back.dtype == numpy_dtype("bfloat16")
    np.testing.assert_array_equal(back.view(np.int16), values.view(np.int16))
    plain = torch.arange(3, dtype=torch.float32)
    copy = from_host(plain)
    plain += 1
    assert copy.tolist() == [0, 1, 2]  # the caller's own


def test_pytorch_runs_the_live_model_in_bfloat16(weights: Weights) -> None:
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 4))
    with open_session(
        weights, "torch", options=SessionOptions(device="cpu", precision="bf16")
    ) as session:
        logits = session.run({"input": images})["logits"]
        kinds = {layer.dtype for layer in session.delivered().layers}
    assert kinds == {"bfloat16"}
    want = reference_logits(weights, images)
    lost = np.abs(logits - want).max() / np.sqrt((want**2).mean())
    assert 1e-4 < lost < PRECISIONS["bf16"].gate.max_error
    assert reference_logits(weights, images, torch.bfloat16).dtype == np.float32


def test_native_inputs_are_classified_too(
    plain: Artifact, weights: Weights, tmp_path: Path
) -> None:
    half = derived(plain, weights, tmp_path, ExportRequest(precision="fp16", io="native"))
    (picture,) = sorted(SHIPPED["digits"].images.glob("3_*.png"))[:1]
    result = CliRunner().invoke(classify, [str(picture), "--artifact", str(half.directory)])
    assert result.exit_code == 0, result.output
    assert f"{picture}: 3 9" in result.output
