"""Inductor's code for a GPU that is not there: everything up to Triton's and the C++ compiler."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import aot_compile, config
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties

from .cuda_tensors import move

#: What Inductor asks of a GPU: an H100.
_PROPERTIES = types.SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    gcnArchName="",
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
)


class _Stop(Exception):
    """The code is there."""


def code_for_gpu(
    program: torch.export.ExportedProgram, cache: Path, patch: pytest.MonkeyPatch
) -> str:
    """The C++ that AOTInductor writes for an exported program on CUDA, without the functions around
    each kernel, which need its binary.

    Args:
        program: traced with `fakes.cuda_tensors`.
        cache: folder for what Inductor writes.
        patch: undone by the test.
    """
    code: list[str] = []

    def keep(graph: GraphLowering) -> Any:
        with config.patch({"triton.autotune_at_compile_time": True}):
            graph.cpp_wrapper = True
            code.append(graph.codegen()[0].value)
        raise _Stop

    DeviceProperties.create.cache_clear()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    patch.setattr(GraphLowering, "codegen_with_cpp_wrapper", keep)
    for place, answer in _ANSWERS.items():
        patch.setattr(place, answer, raising=False)
    (name,) = program.graph_signature.user_inputs
    images = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    model: Any = program.module(check_guards=False)
    move(model, images.fake_mode)
    with torch.no_grad(), pytest.raises(Exception, match="_Stop"):
        aot_compile(model, (images,), options={"aot_inductor.package": True})
    DeviceProperties.create.cache_clear()
    (text,) = code
    return text


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


_ANSWERS: dict[str, Any] = {
    "torch.cuda.is_available": _always(True),
    "torch.cuda.device_count": _always(1),
    "torch.cuda.current_device": _always(0),
    "torch.cuda.get_device_capability": _always((9, 0)),
    "torch.cuda.get_device_properties": _always(_PROPERTIES),
    "torch.cuda._get_device_properties": _always(_PROPERTIES),
    "torch.cuda.get_rng_state": _always(torch.zeros(1)),
    "torch.cuda.set_rng_state": _always(None),
    "torch.cuda.synchronize": _always(None),
    "torch.cuda._lazy_init": _always(None),
    "torch.cuda._exchange_device": _always(0),
    "torch.cuda._maybe_exchange_device": _always(0),
    "torch._dynamo.device_interface.CudaInterface.get_compute_capability": _always(90),
    # Patterns of attention are traced with tensors on the device.
    "torch._inductor.fx_passes.joint_graph.lazy_init": _always(None),
    "torch._inductor.graph.is_same_tensor": lambda one, other: one is other,
    "torch._inductor.codegen.wrapper.PythonWrapperCodegen.generate_and_run_autotune_block": _always(
        None
    ),
    "torch._inductor.codegen.cpp_wrapper_gpu.DeferredTritonCallWrapper.generate": _always(None),
}
