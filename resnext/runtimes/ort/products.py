"""Differences between ONNX Runtime's TensorRT provider and NVIDIA's plugin for TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange
from resnext.precision import Precision

from .libraries import TENSORRT_PROVIDER, tf32_is_off

#: Element types beyond float32 that TensorRT's builder may use: its provider is weakly typed, while
#: TensorRT-RTX follows the graph.
PRECISION_OPTIONS: Mapping[Precision, Mapping[str, str]] = MappingProxyType(
    {
        "fp32": {},
        "fp16": {"trt_fp16_enable": "1"},
        "bf16": {"trt_bf16_enable": "1"},
        "int8": {"trt_int8_enable": "1"},
    }
)

#: Provider options of one session: manifest, cache folder, batch sizes of the engine, CUDA graph.
Settings = Callable[[Manifest, Path, "BatchRange | None", bool], "dict[str, str]"]


@dataclass(frozen=True)
class Product:
    """One of the two providers.

    Attributes:
        provider: ONNX Runtime's name.
        library: version of the underlying library.
        settings: provider options of one session.
        create: makes a session from native options, the ONNX file's bytes and provider options.
        precision_note: the known facts about the layers' precision.
    """

    provider: str
    library: str
    settings: Settings
    create: Callable[[ort.SessionOptions, bytes, dict[str, str]], Any]
    precision_note: Callable[[Precision], str]


def tensorrt10(library: str) -> Product:
    """ONNX Runtime's own provider, which is weakly typed; ``library`` is TensorRT's version."""

    def create(native: ort.SessionOptions, model: bytes, settings: dict[str, str]) -> Any:
        providers = [(TENSORRT_PROVIDER, settings)]
        return ort.InferenceSession(model, native, providers=providers, enable_fallback=0)

    return Product(TENSORRT_PROVIDER, library, _tensorrt10_settings, create, _weakly_typed)


def tensorrt_rtx(library: str, listed: Any) -> Product:
    """The plugin, which is strongly typed and caches kernels for this GPU.

    Args:
        library: the plugin's version.
        listed: ONNX Runtime's entry for the GPU.
    """

    def create(native: ort.SessionOptions, model: bytes, settings: dict[str, str]) -> Any:
        native.add_provider_for_devices([listed], settings)
        return ort.InferenceSession(model, native, enable_fallback=0)

    return Product(
        "NvTensorRTRTXExecutionProvider", library, _rtx_settings, create, _strongly_typed
    )


def profile_options(manifest: Manifest, batches: BatchRange | None, prefix: str) -> dict[str, str]:
    """The optimization profile as ``trt_profile_min_shapes`` and so on; empty if all dimensions are
    fixed.
    """
    dynamic = [spec for spec in manifest.inputs if None in spec.shape]
    if batches is None or not dynamic:
        return {}
    shapes = {}
    for which, size in (("min", batches.min), ("opt", batches.opt), ("max", batches.max)):
        named = (
            f"{spec.name}:" + "x".join(str(size if d is None else d) for d in spec.shape)
            for spec in dynamic
        )
        shapes[f"{prefix}_profile_{which}_shapes"] = ",".join(named)
    return shapes


def _tensorrt10_settings(
    manifest: Manifest, folder: Path, batches: BatchRange | None, cuda_graph: bool
) -> dict[str, str]:
    settings = {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        **PRECISION_OPTIONS[manifest.precision],
    }
    if cuda_graph:
        settings["trt_cuda_graph_enable"] = "1"
    return settings | profile_options(manifest, batches, "trt")


def _rtx_settings(
    manifest: Manifest, folder: Path, batches: BatchRange | None, cuda_graph: bool
) -> dict[str, str]:
    settings = {
        "nv_runtime_cache_path": str(folder),
        "enable_cuda_graph": "1" if cuda_graph else "0",
    }
    return settings | profile_options(manifest, batches, "nv")


def _weakly_typed(precision: Precision) -> str:
    unseen = "ONNX Runtime does not see what a layer inside TensorRT computes in"
    if precision != "fp32":
        return (
            f"{unseen}; weakly typed, {precision} allowed everywhere, also where the graph says"
            " float32"
        )
    if tf32_is_off():
        return f"{unseen}; TF32 off by NVIDIA_TF32_OVERRIDE=0"
    return (
        f"{unseen}; float32 may be rounded to TF32, which the provider has no option against: "
        "set NVIDIA_TF32_OVERRIDE=0 before the process starts"
    )


def _strongly_typed(precision: Precision) -> str:
    if precision == "fp32":
        return _weakly_typed(precision)
    return (
        "as the graph is typed; ONNX Runtime does not see what a layer inside TensorRT-RTX computes"
        " in"
    )
