"""PyTorch, eager or compiled, on CPU or CUDA. The reference of every parity check is a
`reference_logits` from here.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnext.artifact.specs import TensorSpec
from resnext.errors import SilentFallback
from resnext.network.config import ResNeXtConfig
from resnext.network.forms import fold_batch_norms, merge_model_groups, merged_macs
from resnext.precision import PRECISIONS
from resnext.runtimes.buffers import DeviceMemory, full_float32_on_cpu, torch_dtype
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Boundary, Delivered, DeliveredLayer
from resnext.runtimes.tensor_session import WARM_RUNS, TensorSession
from resnext.timing.clock import iterations_for, time_device, time_visit
from resnext.timing.interleave import turns
from resnext.timing.paired import ratio
from resnext.weights.spec import Weights, load_model

#: Turns of a trial; the candidates take turns, so that drift of the machine affects them alike.
_TURNS = 3
#: Device time in one turn on CUDA, and the most runs that this may take.
_TURN_NS, _MOST_RUNS = 20_000_000, 50
#: How much faster a candidate must be than the first to be taken: a trial is short, and the first
#: is the usual choice.
_WORTHWHILE = 0.97
#: Least widths of groups that ``merge_groups="auto"`` tries.
_WIDTHS = (8, 16, 32, 64, 128)
_RECOMPILE_LIMIT = 1024
_OPS = {"conv2d": "Conv", "linear": "Gemm", "Conv2d": "Conv", "Linear": "Gemm"}


def reference_logits(
    weights: Weights, images: NDArray[np.float32], dtype: torch.dtype = torch.float64
) -> NDArray[Any]:
    """Eager PyTorch on the CPU, the reference that candidates are held against.

    Args:
        weights: the network.
        images: N x C x H x W, preprocessed.
        dtype: precision that weights and arithmetic are promoted to.

    Returns:
        N x classes, of ``dtype``; float32 for bfloat16, which NumPy has not.
    """
    model = load_model(weights).to(dtype)
    with torch.inference_mode(), full_float32_on_cpu():
        # A few at a time: float64 activations of a large batch would not fit a small machine.
        parts = [
            model(torch.from_numpy(images[start : start + 8]).to(dtype))
            for start in range(0, len(images), 8)
        ]
    joined = torch.cat(parts)
    logits: NDArray[Any] = (joined.float() if dtype == torch.bfloat16 else joined).numpy()
    return logits


@dataclass
class Network:
    """The model in one form: memory layout, width of its groups, eager or compiled.

    Attributes:
        model: the module, laid out.
        layout: ``nchw`` or ``channels-last``.
        width: least input channels of a group, or None if groups are as the config has them.
        forward: what runs it.
        graphs: what Inductor was given, for a compiled one.
        compiled_shapes: of inputs that it was compiled for; None for an eager one.
    """

    model: nn.Module
    layout: str
    width: int | None
    forward: Callable[[Tensor], Tensor]
    graphs: list[torch.fx.GraphModule] = field(default_factory=list)
    compiled_shapes: set[torch.Size] | None = None

    @property
    def title(self) -> str:
        """What its trial is called."""
        return self.layout if self.width is None else f"merged {self.width}"

    def ready(self, images: Tensor) -> Tensor:
        """``images`` in the network's layout."""
        return images.contiguous(memory_format=_LAYOUTS[self.layout])

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of ``images``, which `ready` laid out."""
        if self.compiled_shapes is None or images.shape in self.compiled_shapes:
            return self.forward(images)
        with _many_compilations():
            logits = self.forward(images)
        self.compiled_shapes.add(images.shape)
        return logits


class TorchSession(TensorSession):
    """The live network, through PyTorch.

    What options leave open (memory layout, width of groups) is decided at the first input by a
    trial: at the boundary that is reported, so on CUDA by replays of captured graphs between
    events.
    """

    def __init__(
        self, weights: Weights, options: SessionOptions, name: str, memory: DeviceMemory
    ) -> None:
        super().__init__(name, options, memory)
        config = self._config = weights.config
        self.inputs = (
            TensorSpec(
                name="input", dtype="float32", shape=(None, config.in_channels, *config.input_size)
            ),
        )
        self.outputs = (
            TensorSpec(name="logits", dtype="float32", shape=(None, config.num_classes)),
        )
        self._dtype = torch_dtype(PRECISIONS[options.precision].weight_dtype)
        self._model: nn.Module = load_model(weights)
        if name == "torch-folded":
            self._model = fold_batch_norms(self._model)
        self._trial_ms: dict[str, float] = {}
        self._boundary: Boundary = "device" if memory.on_cuda else "host"
        self._network: Network | None = None
        layouts = self._layouts()
        if len(layouts) == 1 and options.merge_groups != "auto":
            self._network = self._made(layouts[0], options.merge_groups, keep_model=False)

    def _bind(self, inputs: Arrays) -> Bound:
        """Place the input, decide what the options leave open, compile, run; on CUDA, capture a
        graph if asked for.

        Raises:
            SessionFailed: compiling or capturing failed; ``cuda_graph=False`` goes without a graph.
            SilentFallback: nothing was compiled, though that was asked for.
        """
        bound = super()._bind(inputs)
        if self.backend == "torch-compile" and not (self._network and self._network.graphs):
            bound.close()
            raise SilentFallback(
                "torch-compile: nothing was compiled; PyTorch ran the network eagerly"
            )
        self._boundary = bound.boundary
        return bound

    def delivered(self) -> Delivered:
        """Element type and device of each convolution and the classifier, seen while it ran.

        For ``torch-compile`` these are the nodes of the graph that Inductor was given.
        """
        with self.settings():
            shape = [1 if size is None else size for size in self.inputs[0].shape]
            probe = self._ready(self._memory.place(np.zeros(shape, np.float32)))
            network = self._network
            assert network is not None  # made by _ready
            layers = _graph_layers(network) if network.graphs else _module_layers(network, probe)
        notes = {"memory format": network.layout, **self._device_notes()}
        if network.width is not None:
            notes["groups"] = f"merged to {network.width} channels at least"
        unit = f"ms, {self._boundary}"
        notes.update({f"trial {name}": f"{ms:.3f} {unit}" for name, ms in self._trial_ms.items()})
        if self.backend == "torch-compile":
            notes["graphs"] = str(len(network.graphs))
        return Delivered(self._memory.device, tuple(layers), notes)

    @property
    def model_size_bytes(self) -> int:
        """Of parameters and buffers, as the network holds them."""
        model = self._model if self._network is None else self._network.model
        tensors = [*model.parameters(), *model.buffers()]
        return sum(tensor.nbytes for tensor in tensors)

    def close(self) -> None:
        """Drop network, graph and buffers."""
        super().close()
        self._network, self._model = None, nn.Identity()

    def call(self, images: Tensor) -> Tensor:
        """Logits of ``images``, in the network's layout."""
        assert self._network is not None  # made by _ready
        return self._network(images)

    def _ready(self, images: Tensor) -> Tensor:
        images = images.to(self._dtype)  # inputs and outputs stay float32, whatever is between
        if self._network is None:
            self._network = self._chosen(images)
        return self._network.ready(images)

    def _layouts(self) -> tuple[str, ...]:
        if self._options.memory_format != "auto":
            return (self._options.memory_format,)
        return ("channels-last",) if self.backend == "torch-folded" else tuple(_LAYOUTS)

    def _chosen(self, images: Tensor) -> Network:
        """The fastest of what options leave open."""
        wanted = self._options.merge_groups
        merge = wanted if isinstance(wanted, int) else None
        *others, last = self._layouts()
        networks = [self._made(layout, merge, keep_model=True) for layout in others]
        networks.append(self._made(last, merge, keep_model=wanted == "auto"))
        best = self._fastest(networks, images)
        if wanted == "auto":
            merged = [
                self._made(best.layout, width, keep_model=True)
                for width in widths_to_try(self._config)
            ]
            best = self._fastest([best, *merged], images)
            self._model = nn.Identity()
        return best

    def _fastest(self, networks: Sequence[Network], images: Tensor) -> Network:
        if len(networks) == 1:
            return networks[0]
        took = self._timed(networks, images)
        self._trial_ms |= {title: min(times) for title, times in took.items()}
        first = networks[0]
        ratios = {title: ratio(times, took[first.title]).median for title, times in took.items()}
        best = min(networks, key=lambda network: ratios[network.title])
        return best if ratios[best.title] < _WORTHWHILE else first

    def _timed(self, networks: Sequence[Network], images: Tensor) -> Mapping[str, list[float]]:
        """Milliseconds of one run of each by turns, at the boundary that is reported."""
        graph = self._memory.on_cuda and self._options.cuda_graph
        trials = [_Trial(network, images, self._memory, graph=graph) for network in networks]
        samples: dict[str, list[float]] = {network.title: [] for network in networks}
        for _, trial in turns(trials, _TURNS):
            samples[trial.title].append(trial.milliseconds())
        return samples

    def _made(self, layout: str, width: int | None, *, keep_model: bool) -> Network:
        """The model in one form; without ``keep_model`` the session's own is used up, for the
        memory's sake.
        """
        with torch.inference_mode(False), torch.no_grad(), self._memory.current():
            if width is not None:
                model = merge_model_groups(self._model, width)
            else:
                model = copy.deepcopy(self._model) if keep_model else self._model
            if not keep_model:
                self._model = nn.Identity()
            model.to(self._memory.torch_device, self._dtype)
            model.to(memory_format=_LAYOUTS[layout])  # type: ignore[call-overload]  # torch's stub leaves this form out
        network = Network(model, layout, width, model)
        if self.backend == "torch-compile":
            network.forward, network.compiled_shapes = _compiled(model, network.graphs), set()
        return network


class _Trial:
    """One network over one input, with the interface that the clock times.

    Args:
        network: what runs.
        images: that it runs over.
        memory: stream and graphs.
        graph: capture a CUDA graph, and time its replays.
    """

    def __init__(
        self, network: Network, images: Tensor, memory: DeviceMemory, *, graph: bool
    ) -> None:
        self._network, self._images, self._memory = network, network.ready(images), memory
        self.title = network.title
        self.enqueue: Callable[[], object] = self._launch
        for _ in range(WARM_RUNS if graph else 1):
            self._launch()
        memory.synchronize()
        if graph:
            self.enqueue = memory.capture(self._launch)

    @property
    def cuda_stream(self) -> int:
        """The memory's stream."""
        return self._memory.stream

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._memory.synchronize()

    def milliseconds(self) -> float:
        """Of one run: the median of one turn on CUDA, one run on a CPU."""
        if not self._memory.on_cuda:
            return time_visit(self.enqueue, 1)[0] / 1e6
        estimate_ns = statistics.median(time_device(self, 3)[0])
        runs = iterations_for(_TURN_NS, estimate_ns, least=3, most=_MOST_RUNS)
        return statistics.median(time_device(self, runs)[0]) / 1e6

    def _launch(self) -> None:
        self._result = self._network(self._images)  # kept: a captured graph writes there


def widths_to_try(config: ResNeXtConfig) -> tuple[int, ...]:
    """Least widths of groups that give the network different forms, none of which is the unmerged
    one.
    """
    forms = {merged_macs(config, 1): 0}
    for width in _WIDTHS:
        forms.setdefault(merged_macs(config, width), width)
    return tuple(width for width in forms.values() if width)


def _compiled(model: nn.Module, graphs: list[torch.fx.GraphModule]) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torch's own modules warn of each other
        from torch._inductor.compile_fx import compile_fx

    def inductor(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        graphs.append(graph)
        with warnings.catch_warnings():
            # Full float32 was asked for; that TF32 would be faster is no news.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            return compile_fx(graph, example)

    compiled: Callable[[Tensor], Tensor] = torch.compile(
        model, backend=inductor, dynamic=False, fullgraph=True
    )
    return compiled


def _many_compilations() -> AbstractContextManager[Any]:
    """Let Dynamo compile once more, however many sessions of this process it has compiled for.

    Its limit counts compilations of one code object, so over all sessions. With ``fullgraph`` it
    raises at the limit instead of running eagerly.
    """
    dynamo: Any = torch._dynamo.config
    context: AbstractContextManager[Any] = dynamo.patch(
        recompile_limit=max(dynamo.recompile_limit, _RECOMPILE_LIMIT),
        accumulated_recompile_limit=max(dynamo.accumulated_recompile_limit, _RECOMPILE_LIMIT),
        fail_on_recompile_limit_hit=True,
    )
    return context


def _graph_layers(network: Network) -> list[DeliveredLayer]:
    layers = []
    for node in network.graphs[-1].graph.nodes:
        op = _OPS.get(getattr(node.target, "__name__", str(node.target)))
        value = node.meta.get("example_value")
        if op and isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            # The innermost of the modules that the call came from, as ("L['self'].layer1.0.conv1",
            # its class).
            paths = [
                path.removeprefix("L['self'].")
                for path, _ in node.meta.get("nn_module_stack", {}).values()
            ]
            layers.append(
                DeliveredLayer(node.name, op, dtype, value.device.type, tuple(paths[-1:]))
            )
    return layers


def _module_layers(network: Network, probe: Tensor) -> list[DeliveredLayer]:
    layers: list[DeliveredLayer] = []

    def note(name: str, op: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            dtype = str(output.dtype).removeprefix("torch.")
            layers.append(DeliveredLayer(name, op, dtype, output.device.type, (name,)))

        return hook

    hooks = [
        module.register_forward_hook(note(name, _OPS[type(module).__name__]))
        for name, module in network.model.named_modules()
        if type(module).__name__ in _OPS
    ]
    try:
        network.model(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


_LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}
