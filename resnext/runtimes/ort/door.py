"""Opens an ONNX artifact on ONNX Runtime: the provider by the runtime's name and this machine."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement
from resnext.findings import Finding
from resnext.machine.machine import this_machine
from resnext.runtimes.registry import (
    RUNTIMES,
    Device,
    SessionOptions,
    check_precision,
    require_cuda,
)

from . import cuda_probe, libraries, products
from .cpu import CpuProvider
from .cuda import CudaProvider
from .provider import Provider
from .session import OrtSession
from .trt_provider import TensorrtProvider


def open_session(subject: Artifact, options: SessionOptions, name: str) -> OrtSession:
    """Open ``ort-cpu``, ``ort-cuda``, ``ort-trt`` (TensorRT 10) or ``ort-trt-rtx`` (the plugin for
    TensorRT-RTX); ``ort`` is the better of the first two that works here.

    Raises:
        MissingRequirement: the machine or this ONNX Runtime lacks what the provider needs.
        SilentFallback: ONNX Runtime left the provider out, or a node would run elsewhere.
        SessionFailed: TensorRT refuses the network.
        UsageError: the provider has no convolutions of the artifact's precision.
    """
    if name in ("ort-trt", "ort-trt-rtx"):
        return OrtSession(TensorrtProvider(subject, options, name, _product(name)))
    device, precision = options.device, subject.manifest.precision
    device = {"ort-cpu": "cpu", "ort-cuda": "cuda"}.get(name, device)  # type: ignore[assignment]
    if device == "auto":
        runs = precision in RUNTIMES["ort-cuda"].precisions and cuda_probe.cuda_works()
        device = "cuda" if runs else "cpu"
    check_precision(f"ort-{device}", precision)
    provider: Provider
    if device == "cpu":
        provider = CpuProvider(subject, options, name)
    else:
        if found := cuda_probe.cuda_obstacle():
            raise MissingRequirement(found.message, hint=found.hint)
        provider = CudaProvider(subject, options, name)
    return OrtSession(provider)


def available(name: str, device: Device, *, given: bool) -> Finding | None:
    """What ONNX Runtime's provider lacks here."""
    del given  # an engine is built when it is opened
    if name in ("ort", "ort-cpu") and device != "cuda":
        return None
    require_cuda()
    if name == "ort-trt":
        libraries.load_tensorrt10()
    elif name == "ort-trt-rtx":
        libraries.plugin_device(this_machine().driver)
    else:
        return cuda_probe.cuda_obstacle()
    return None


def _product(name: str) -> products.Product:
    driver = this_machine().driver
    if driver.problem is not None:
        raise MissingRequirement(
            f"backend {name!r} needs an NVIDIA GPU: {driver.problem}",
            hint="on this machine use `backend` ort-cpu, torch or torch-compile",
        )
    if name == "ort-trt-rtx":
        return products.tensorrt_rtx(*libraries.plugin_device(driver))
    return products.tensorrt10(libraries.load_tensorrt10())
