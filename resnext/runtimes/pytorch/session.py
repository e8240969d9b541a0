"""PyTorch, eager or compiled, on CPU or CUDA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from resnext.errors import SilentFallback
from resnext.network.forms import fold_batch_norms, merge_model_groups
from resnext.precision import PRECISIONS
from resnext.runtimes.buffers import DeviceMemory, torch_dtype
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Boundary, Delivered, LayerTime
from resnext.runtimes.tensor_session import TensorSession, Translated
from resnext.weights.spec import Weights, load_model

from .module_times import median_times, run_modules
from .network import LAYOUTS, Network, live_inputs, live_outputs
from .trial import fastest, time_forms, widths_to_try


class TorchSession(TensorSession):
    """The live network on PyTorch.

    Memory layout and width of groups, if the options leave them open, are chosen by a trial at the
    first input. It measures what the session reports: on CUDA, graph replays between events.

    Args:
        weights: the network.
        options: precision, memory format, groups, threads, CUDA graphs.
        name: the backend's.
        memory: where tensors live.
    """

    def __init__(
        self, weights: Weights, options: SessionOptions, name: str, memory: DeviceMemory
    ) -> None:
        super().__init__(name, options, memory)
        config = self._config = weights.config
        self.inputs, self.outputs = live_inputs(config), live_outputs(config)
        self._dtype = torch_dtype(PRECISIONS[options.precision].weight_dtype)
        self._model: nn.Module = load_model(weights)
        if name == "torch-folded":
            self._model = fold_batch_norms(self._model)
        self._trial_ms: dict[str, float] = {}
        self._boundary: Boundary = "device" if memory.on_cuda else "host"
        self._network: Network | None = None
        layouts = self._layouts()
        if len(layouts) == 1 and options.merge_groups != "auto":
            self._network = self._in_form(layouts[0], options.merge_groups, keep_model=False)

    def _bind(self, inputs: Arrays) -> Bound:
        """Place the input, choose a form, compile and run; on CUDA, capture a graph if the options
        request one.

        Raises:
            SessionFailed: compiling or capturing failed; ``cuda_graph=False`` avoids the capture.
            SilentFallback: ``torch-compile`` compiled nothing.
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
        """Element type and device of each convolution and the classifier, observed in a run.

        For ``torch-compile``, they are read from the graph that was passed to Inductor.
        """
        with self.settings():
            shape = [1 if size is None else size for size in self.inputs[0].shape]
            probe = self._ready(self._memory.place(np.zeros(shape, np.float32)))
            network = self._network
            assert network is not None  # set by _ready
            layers = network.layers(probe)
        notes = {"memory format": network.layout, **self._device_notes()}
        if network.width is not None:
            notes["groups"] = f"merged to {network.width} channels at least"
        unit = f"ms, {self._boundary}"
        notes.update({f"trial {name}": f"{ms:.3f} {unit}" for name, ms in self._trial_ms.items()})
        if self.backend == "torch-compile":
            notes["graphs"] = str(len(network.graphs))
        return Delivered(self._memory.device, tuple(layers), notes)

    def layer_times(
        self, inputs: Arrays, runs: int, before_each: Callable[[], object] = lambda: None
    ) -> tuple[LayerTime, ...]:
        """Of each module of an eager network on a CPU, without the modules that it calls."""
        self.check_inputs(inputs)
        if self.backend == "torch-compile" or self._memory.on_cuda:
            return super().layer_times(inputs, runs)
        with Translated(self.backend), self.settings():
            images = self._ready(self._memory.place(inputs[self.inputs[0].name]))
        network = self._network
        assert network is not None  # set by _ready
        timed = []
        for index in range(runs + 1):
            if index:
                before_each()
            with Translated(self.backend), self.settings():
                timed.append(run_modules(network.model, partial(network, images)))
        return median_times(timed[1:])

    @property
    def model_size_bytes(self) -> int:
        """Size of parameters and buffers."""
        model = self._model if self._network is None else self._network.model
        tensors = [*model.parameters(), *model.buffers()]
        return sum(tensor.nbytes for tensor in tensors)

    def close(self) -> None:
        """Release network, graph and buffers."""
        super().close()
        self._network, self._model = None, nn.Identity()

    def call(self, images: Tensor) -> Tensor:
        """Logits of ``images``, in the network's layout."""
        assert self._network is not None  # set by _ready
        return self._network(images)

    def _ready(self, images: Tensor) -> Tensor:
        images = images.to(self._dtype)  # inputs and outputs of the session are float32
        if self._network is None:
            self._network = self._chosen(images)
        return self._network.ready(images)

    def _layouts(self) -> tuple[str, ...]:
        if self._options.memory_format != "auto":
            return (self._options.memory_format,)
        return ("channels-last",) if self.backend == "torch-folded" else tuple(LAYOUTS)

    def _chosen(self, images: Tensor) -> Network:
        """The fastest form among those that the options leave open."""
        requested = self._options.merge_groups
        width = requested if isinstance(requested, int) else None
        *others, last = self._layouts()
        networks = [self._in_form(layout, width, keep_model=True) for layout in others]
        networks.append(self._in_form(last, width, keep_model=requested == "auto"))
        best = self._fastest(networks, images)
        if requested == "auto":
            merged = [
                self._in_form(best.layout, width, keep_model=True)
                for width in widths_to_try(self._config)
            ]
            best = self._fastest([best, *merged], images)
            self._model = nn.Identity()
        return best

    def _fastest(self, networks: Sequence[Network], images: Tensor) -> Network:
        if len(networks) == 1:
            return networks[0]
        graph = self._memory.on_cuda and self._options.cuda_graph
        times = time_forms(networks, images, self._memory, graph=graph)
        self._trial_ms |= {title: min(samples) for title, samples in times.items()}
        return fastest(networks, times)

    def _in_form(self, layout: str, width: int | None, *, keep_model: bool) -> Network:
        """The model in one form. Without ``keep_model``, the session's own model is used up, which
        saves memory.
        """
        with torch.inference_mode(False), torch.no_grad(), self._memory.current():
            if width is not None:
                model = merge_model_groups(self._model, width)
            else:
                model = copy.deepcopy(self._model) if keep_model else self._model
            if not keep_model:
                self._model = nn.Identity()
            model.to(self._memory.torch_device, self._dtype)
            model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]  # torch's stub leaves this form out
        network = Network(model, layout, width, model)
        if self.backend == "torch-compile":
            network.compile()
        return network
