"""Opens an ONNX artifact on ONNX Runtime: picks the provider by runtime name and machine."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement
from resnext.findings import Finding
from resnext.machine.cuda_driver import Driver
from resnext.machine.machine import Machine, this_machine
from resnext.precision import Precision
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
    TensorRT-RTX); ``ort`` is CUDA if that works here for the artifact's precision, else the CPU.

    Raises:
        MissingRequirement: the machine or this ONNX Runtime lacks what the provider needs.
        SilentFallback: ONNX Runtime did not use the provider for all nodes.
        SessionFailed: TensorRT refuses the network.
        UsageError: the provider has no convolutions of the artifact's precision.
    """
    return OrtSession(_provider(subject, options, name))


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """What ONNX Runtime's provider lacks here."""
    del prebuilt  # an engine is built when it is opened
    if name in ("ort", "ort-cpu") and device != "cuda":
        return None
    require_cuda(machine.driver)
    if name not in _TENSORRT:
        return cuda_probe.cuda_obstacle(machine.driver)
    _product(name, machine.driver)
    return None


def _provider(subject: Artifact, options: SessionOptions, name: str) -> Provider:
    runtime = RUNTIMES[name]
    device = options.device if runtime.device == "auto" else runtime.device
    if device == "cpu":
        return CpuProvider(subject, options, name)
    driver = this_machine().driver
    if device == "auto" and not _runs_on_cuda(subject.manifest.precision, driver):
        return CpuProvider(subject, options, name)
    require_cuda(driver)
    if name in _TENSORRT:
        return TensorrtProvider(subject, options, name, _product(name, driver))
    check_precision("ort-cuda", subject.manifest.precision)
    if problem := cuda_probe.cuda_obstacle(driver):
        raise MissingRequirement(problem.message, hint=problem.hint)
    return CudaProvider(subject, options, name)


def _runs_on_cuda(precision: Precision, driver: Driver) -> bool:
    return precision in RUNTIMES["ort-cuda"].precisions and cuda_probe.cuda_works(driver)


def _product(name: str, driver: Driver) -> products.Product:
    if name == "ort-trt-rtx":
        return products.tensorrt_rtx(*libraries.plugin_device(driver))
    return products.tensorrt10(libraries.load_tensorrt10(driver))


#: Runtimes that hand the graph to TensorRT.
_TENSORRT = ("ort-trt", "ort-trt-rtx")
