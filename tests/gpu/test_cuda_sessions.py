"""CUDA sessions: the same function at every batch, graphs on and off, times that enclose what they
say.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import ResnextError
from resnext.precision import Precision
from resnext.runtimes import tensor_session
from resnext.runtimes.availability import available
from resnext.runtimes.ort.cuda import CudaProvider
from resnext.runtimes.ort.session import OrtSession
from resnext.runtimes.registry import RUNTIMES, SessionOptions, open_session
from resnext.runtimes.session import Bound, Session
from resnext.timing.clock import time_device, time_host
from resnext.verify.batches.integrity import session_integrity
from resnext.verify.delivered import delivered_share
from resnext.verify.parity import compare
from resnext.weights.spec import Weights

BATCHES = (1, 8, 64)
Exported = Callable[[Precision], Artifact]
NO_ORT_CUDA = available("ort-cuda")
needs_ort_cuda = pytest.mark.skipif(NO_ORT_CUDA is not None, reason=str(NO_ORT_CUDA))
ALL = ["torch", "torch-folded", "torch-compile", pytest.param("ort-cuda", marks=needs_ort_cuda)]
EAGER = ["torch", "torch-folded", pytest.param("ort-cuda", marks=needs_ort_cuda)]


def open_cuda(name: str, weights: Weights, exported: Exported, *, graph: bool = True) -> Session:
    subject: Weights | Artifact = weights if RUNTIMES[name].live else exported("fp32")
    return open_session(subject, name, options=SessionOptions(device="cuda", cuda_graph=graph))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ALL)
def test_bound_and_host_runs_are_float64s(
    name: str, batch: int, weights: Weights, exported: Exported, images: Any, reference: Any
) -> None:
    with open_cuda(name, weights, exported) as session:
        bound = session.bind({"input": images[:batch]})
        bound.enqueue()
        bound.synchronize()
        for logits in (bound.fetch()["logits"], session.run({"input": images[:batch]})["logits"]):
            assert np.isfinite(logits).all()
            outcome = compare(reference[:batch], logits[: len(reference)])
            assert outcome.passed, outcome.failures


@pytest.mark.parametrize("name", EAGER)
def test_the_rows_of_a_batch_are_independent(
    name: str, weights: Weights, exported: Exported, images: Any
) -> None:
    with open_cuda(name, weights, exported) as session:
        outcome = session_integrity(
            session,
            images[:13],
            ranges=None,
            numerics="fp32",
            sizes=(2, 8, 33),  # cuDNN searches its kernels anew for each
        )
    assert outcome.passed, outcome.failures


@pytest.mark.parametrize("name", EAGER)
def test_a_graph_gives_what_plain_launches_give(
    name: str, weights: Weights, exported: Exported, images: Any
) -> None:
    outputs = []
    for graph in (True, False):
        with open_cuda(name, weights, exported, graph=graph) as session:
            bound = session.bind({"input": images[:8]})
            assert bound.boundary == ("graph" if graph else "device")
            bound.enqueue()
            bound.synchronize()
            outputs.append(bound.fetch()["logits"])
    # Kernel choice may differ between the two, so equal to float32 rounding of a deep network, not
    # to the bit.
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-4 * np.abs(outputs[1]).max())


@pytest.mark.parametrize("name", EAGER)
def test_binding_again_takes_the_new_input_and_batch(
    name: str, weights: Weights, exported: Exported, images: Any, reference: Any
) -> None:
    with open_cuda(name, weights, exported) as session:
        for rows in (slice(0, 8), slice(8, 16), slice(3, 4)):
            bound = session.bind({"input": images[rows]})
            bound.enqueue()
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed
            assert compare(reference[10:12], session.run({"input": images[10:12]})["logits"]).passed
            bound.enqueue()  # a run between must leave what is bound alone
            bound.synchronize()
            assert compare(reference[rows], bound.fetch()["logits"]).passed


@pytest.mark.parametrize("name", EAGER)
def test_everything_runs_on_the_device_in_float32(
    name: str, weights: Weights, exported: Exported
) -> None:
    with open_cuda(name, weights, exported) as session:
        delivered = session.delivered()
    heavy = [layer for layer in delivered.layers if layer.op in ("Conv", "Gemm")]
    assert len(heavy) == 54
    assert {layer.dtype for layer in heavy} == {"float32"}
    assert {layer.device.lower() for layer in heavy} == {"cuda"}


def test_float32_is_not_tf32_whatever_the_process_was_told(
    weights: Weights, images: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True),
        open_session(weights, "torch", options=SessionOptions(device="cuda")) as session,
    ):
        exact = compare(reference[:8], session.run({"input": images[:8]})["logits"]).max_error
        monkeypatch.setattr(
            tensor_session, "full_float32", contextlib.nullcontext
        )  # the session without its guard
        loose = compare(reference[:8], session.run({"input": images[:8]})["logits"]).max_error
    assert exact is not None
    assert loose is not None
    assert exact * 10 < loose  # the gate would tell the two apart


@pytest.mark.parametrize("name", EAGER)
def test_device_time_is_within_host_time_and_grows_with_work(
    name: str, weights: Weights, exported: Exported, images: Any
) -> None:
    medians = {}
    for batch in (8, 64):
        with open_cuda(name, weights, exported) as session:
            inputs = {"input": images[:batch]}
            bound = session.bind(inputs)
            if bound.cuda_stream is None:
                pytest.skip("this PyTorch has no CUDA, so there are no events to time with")
            device = statistics.median(time_device(bound, 20)[0])
            host = statistics.median(time_host(lambda s=session, i=inputs: s.run(i), 10))  # type: ignore[misc]  # defaults bind
            assert 0 < device < host
            medians[batch] = device
    assert medians[64] > 2 * medians[8]


@pytest.mark.parametrize("name", ALL)
def test_float16_has_tensor_cores(
    name: str, weights: Weights, exported: Exported, images: Any
) -> None:
    times: dict[Precision, list[int]] = {"fp32": [], "fp16": []}
    with contextlib.ExitStack() as stack:
        sessions: dict[Precision, Session] = {}
        bounds: dict[Precision, Bound] = {}
        for precision in times:
            subject: Weights | Artifact = weights if RUNTIMES[name].live else exported(precision)
            options = SessionOptions(device="cuda", precision=precision)
            session = sessions[precision] = stack.enter_context(
                open_session(subject, name, options=options)
            )
            bound = bounds[precision] = session.bind({"input": images[:64]})
            if bound.cuda_stream is None:
                pytest.skip("this PyTorch has no CUDA, so there are no events to time with")
        assert delivered_share(sessions["fp16"].delivered(), weights.config, "float16") == 1
        for _ in range(5):  # by turns, so that a clock that sinks slows both
            for precision, bound in bounds.items():
                times[precision] += time_device(bound, 10)[0]
    medians = {precision: statistics.median(taken) for precision, taken in times.items()}
    # Without tensor cores float16 is slower, or gains no more than its smaller tensors give.
    assert medians["fp32"] > 1.5 * medians["fp16"], medians


@needs_ort_cuda
def test_what_ort_cuda_makes_of_bfloat16(
    weights: Weights, images: Any, reference: Any, tmp_path: Path
) -> None:
    """A report and no check: the table of backends leaves bfloat16 out, and pytest's summary says
    what releases do.
    """
    artifact = export_onnx(weights, tmp_path / "bf16", precision="bf16", check=False)
    try:
        with OrtSession(CudaProvider(artifact, SessionOptions(), "ort-cuda")) as session:
            logits = session.run({"input": images[:8]})["logits"]
            share = delivered_share(session.delivered(), weights.config, "bfloat16")
    except ResnextError as exc:
        pytest.xfail(f"ort-cuda does not run bfloat16: {exc}")
    lost = np.abs(logits - reference[:8]).max() / np.sqrt(np.square(reference[:8]).mean())
    pytest.xfail(
        f"ort-cuda runs bfloat16: {share:.0%} of the work, and loses {lost:.2g} of the logits"
    )
