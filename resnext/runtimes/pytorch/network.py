"""The live network in one form: memory layout, width of its groups, eager or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnext.artifact.specs import TensorSpec
from resnext.network.config import ResNeXtConfig
from resnext.runtimes.session import DeliveredLayer

#: PyTorch's memory formats by name.
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}
_RECOMPILE_LIMIT = 1024
#: Convolutions and matrix products, by function and by class.
OPS = {
    "conv2d": "Conv",
    "linear": "Gemm",
    "Conv2d": "Conv",
    "Linear": "Gemm",
    "GroupedConv3x3": "Conv",
    "Pointwise": "Conv",
    "PlainConv": "Conv",
}


@dataclass
class Network:
    """The model in one form.

    Attributes:
        model: the module, in its memory layout.
        layout: ``nchw`` or ``channels-last``.
        width: minimum input channels per group, or None if the groups are as in the config.
        forward: runs the model.
        graphs: the graphs passed to Inductor, for a compiled model.
        compiled_shapes: input shapes that it was compiled for; None for an eager model.
    """

    model: nn.Module
    layout: str
    width: int | None
    forward: Callable[[Tensor], Tensor]
    graphs: list[torch.fx.GraphModule] = field(default_factory=list)
    compiled_shapes: set[torch.Size] | None = None

    @property
    def title(self) -> str:
        """Name of the form in a trial."""
        return self.layout if self.width is None else f"merged {self.width}"

    def ready(self, images: Tensor) -> Tensor:
        """``images`` in the network's layout."""
        return images.contiguous(memory_format=LAYOUTS[self.layout])

    def compile(self) -> None:
        """Compile with Inductor, at the first call for each shape."""
        self.forward, self.compiled_shapes = _compiled(self.model, self.graphs), set()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of ``images``, in the layout of `ready`."""
        if self.compiled_shapes is None or images.shape in self.compiled_shapes:
            return self.forward(images)
        with _many_compilations():
            logits = self.forward(images)
        self.compiled_shapes.add(images.shape)
        return logits

    def layers(self, probe: Tensor) -> list[DeliveredLayer]:
        """Element type and device of each convolution and the classifier.

        Those of a compiled model are the nodes of the last graph passed to Inductor; an eager
        model runs ``probe``.
        """
        return _graph_layers(self.graphs[-1]) if self.graphs else _module_layers(self.model, probe)


def live_inputs(config: ResNeXtConfig) -> tuple[TensorSpec, ...]:
    """The input of a session that runs a live network."""
    shape = (None, config.in_channels, *config.input_size)
    return (TensorSpec(name="input", dtype="float32", shape=shape),)


def live_outputs(config: ResNeXtConfig) -> tuple[TensorSpec, ...]:
    """Its output."""
    return (TensorSpec(name="logits", dtype="float32", shape=(None, config.num_classes)),)


def _compiled(model: nn.Module, graphs: list[torch.fx.GraphModule]) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        # PyTorch's own modules use each other's deprecated names.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch._inductor.compile_fx import compile_fx

    def inductor(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        graphs.append(graph)
        with warnings.catch_warnings():
            # Float32 is deliberate, although TF32 would be faster.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            return compile_fx(graph, example)

    compiled: Callable[[Tensor], Tensor] = torch.compile(
        model, backend=inductor, dynamic=False, fullgraph=True
    )
    return compiled


def _many_compilations() -> AbstractContextManager[Any]:
    """Raise Dynamo's limit inside the block.

    Dynamo counts the compilations of one code object over all sessions of the process. With
    ``fullgraph`` it raises an error at the limit instead of running eagerly.
    """
    dynamo: Any = torch._dynamo.config
    context: AbstractContextManager[Any] = dynamo.patch(
        recompile_limit=max(dynamo.recompile_limit, _RECOMPILE_LIMIT),
        accumulated_recompile_limit=max(dynamo.accumulated_recompile_limit, _RECOMPILE_LIMIT),
        fail_on_recompile_limit_hit=True,
    )
    return context


def _graph_layers(graph: torch.fx.GraphModule) -> list[DeliveredLayer]:
    layers = []
    for node in graph.graph.nodes:
        op = OPS.get(getattr(node.target, "__name__", str(node.target)))
        value = node.meta.get("example_value")
        if op and isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            # The innermost calling module, from ("L['self'].layer1.0.conv1", its class).
            paths = [
                path.removeprefix("L['self'].")
                for path, _ in node.meta.get("nn_module_stack", {}).values()
            ]
            layers.append(
                DeliveredLayer(node.name, op, dtype, value.device.type, tuple(paths[-1:]))
            )
    return layers


def _module_layers(model: nn.Module, probe: Tensor) -> list[DeliveredLayer]:
    layers: list[DeliveredLayer] = []

    def recorder(name: str, op: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            dtype = str(output.dtype).removeprefix("torch.")
            layers.append(DeliveredLayer(name, op, dtype, output.device.type, (name,)))

        return hook

    hooks = [
        module.register_forward_hook(recorder(name, OPS[type(module).__name__]))
        for name, module in model.named_modules()
        if type(module).__name__ in OPS
    ]
    try:
        model(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return layers
