"""CUDA tensors without a GPU: shapes, strides and types, so that what PyTorch does with them can be
traced, and not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from triton.backends.compiler import GPUTarget

_LAUNCH = "triton_kernel_wrapper_functional"


class Driver:
    """What PyTorch asks of Triton's driver to read a kernel: the GPU that it is for."""

    def get_current_target(self) -> GPUTarget:
        """An H100."""
        return GPUTarget("cuda", 90, 32)


@contextmanager
def no_gpu() -> Iterator[None]:
    """Let CUDA tensors be traced by a PyTorch that cannot use CUDA, and kernels be read."""
    with pytest.MonkeyPatch.context() as patch:
        # The method, unlike the operator, selects the device first.
        patch.setattr(Tensor, "contiguous", _contiguous)
        patch.setattr("torch._C._conv_determine_backend_memory_format", _cudnn_format)
        driver = triton.runtime.driver
        patch.setattr(driver, "_active", Driver())
        patch.setattr(driver, "_default", Driver())
        FakeTensorMode.cache_clear()  # results remembered of another layout
        yield
    FakeTensorMode.cache_clear()


def _cudnn_format(images: Tensor, weight: Tensor, _: object) -> torch.memory_format:
    """The layout of cuDNN's results: channels-last where images or weights are."""
    last = torch.channels_last
    for each in (images, weight):
        if each.is_contiguous(memory_format=last) and not each.is_contiguous():
            return last
    return torch.contiguous_format


def _contiguous(tensor: Tensor, memory_format: Any = torch.contiguous_format) -> Any:
    return torch.ops.aten.contiguous.default(tensor, memory_format=memory_format)


def on_cuda(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """The shape, strides and type of ``tensor`` on ``cuda:0``."""
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    fake = FakeTensor(mode, meta, torch.device("cuda:0"))
    return fake if not isinstance(tensor, nn.Parameter) else nn.Parameter(fake, False)


def move(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by those `on_cuda`."""
    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            moved = {name: on_cuda(one, mode) for name, one in tensors.items() if one is not None}
            tensors.update(moved)


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel in a graph.

    Attributes:
        kernel: its name.
        grid: number of programs on each axis, of which some may depend on the batch.
        arguments: all others, by name; tensors are nodes.
        mutated: names of the tensors that PyTorch takes it to write.
        options: warps and stages.
    """

    kernel: str
    grid: tuple[Any, ...]
    arguments: Mapping[str, Any]
    mutated: tuple[str, ...]
    options: Mapping[str, int]

    def programs(self, batch: int) -> tuple[int, ...]:
        """The grid for ``batch`` images."""
        return tuple(_number(value, batch) for value in self.grid)


def lowered(program: torch.export.ExportedProgram) -> Graph:
    """The graph of an exported program as Inductor gets it: the toolkit's operators decomposed."""
    (name,) = program.graph_signature.user_inputs
    images = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    model: Any = program.module(check_guards=False)
    if images.device.type == "cuda":
        move(model, images.fake_mode)
    with torch.no_grad():
        module: Any = aot_export_module(_Tuple(model), (images,), trace_joint=False)[0]
    graph: Graph = module.graph
    return graph


def launches(graph: Graph) -> list[Launch]:
    """The kernels in a graph."""
    found = []
    for node in graph.nodes:
        if _LAUNCH in str(node.target):
            kernel: Any = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            constants = kernel_side_table.get_constant_args(node.kwargs["constant_args_idx"])
            options = kernel.configs[0]
            found.append(
                Launch(
                    kernel.fn.__name__,
                    tuple(node.kwargs["grid"][0]),
                    {**node.kwargs["kwargs"], **constants},
                    tuple(node.kwargs["tensors_to_clone"]),
                    {"num_warps": options.num_warps, "num_stages": options.num_stages},
                )
            )
    return found


class _Tuple(nn.Module):
    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(images),)


def _number(value: Any, batch: int) -> int:
    if isinstance(value, int):
        return value
    assert isinstance(value, Node)
    expression = value.meta["val"].node.expr
    (symbol,) = expression.free_symbols
    return int(expression.subs(symbol, batch))
