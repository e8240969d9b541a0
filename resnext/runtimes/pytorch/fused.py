"""The live network on the toolkit's own Triton kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from resnext.kernels.network import Choose, First, FusedNetwork, fused_network
from resnext.kernels.tuning import Launch, Tuned, may_copy_ahead
from resnext.precision import PRECISIONS
from resnext.progress import steps
from resnext.runtimes.buffers import DeviceMemory, torch_dtype
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Arrays, Bound, Delivered
from resnext.runtimes.tensor_session import TensorSession, Translated
from resnext.weights.spec import Weights, load_model

from .network import LAYOUTS, Network, live_inputs, live_outputs
from .trial import time_calls


class FusedSession(TensorSession):
    """The live network with batch norms folded, on Triton kernels: a block in three launches.

    Each bound batch size has a network with tiles timed for it; `run` uses the one of its batch
    size, or else any: all compute the same.

    Args:
        weights: the network.
        options: precision, CUDA graphs.
        name: the backend's.
        memory: where tensors live.
    """

    def __init__(
        self, weights: Weights, options: SessionOptions, name: str, memory: DeviceMemory
    ) -> None:
        super().__init__(name, options, memory)
        self._config = weights.config
        self.inputs, self.outputs = live_inputs(weights.config), live_outputs(weights.config)
        self._dtype = torch_dtype(PRECISIONS[options.precision].weight_dtype)
        self._model = load_model(weights)
        self._networks: dict[int, FusedNetwork] = {}
        self._untried: FusedNetwork | None = None

    def _bind(self, inputs: Arrays) -> Bound:
        """Time tiles for this batch size unless their winners are known, place the input and run;
        on CUDA, capture a graph if the options request one.

        Raises:
            SessionFailed: a kernel failed to compile or run.
        """
        batch = len(inputs[self.inputs[0].name])
        if batch not in self._networks:
            with (
                Translated(self.backend),
                self.settings(),
                timed_tiles(self._memory, self._dtype) as choose,
            ):
                self._networks[batch] = self._built(batch, choose)
        return super()._bind(inputs)

    def delivered(self) -> Delivered:
        """Element type and device of each convolution and the classifier, observed in a run, and
        the layers that PyTorch's own kernels run.
        """
        with Translated(self.backend), self.settings():
            shape = [1 if size is None else size for size in self.inputs[0].shape]
            probe = self._ready(self._memory.place(np.zeros(shape, np.float32)))
            network = self._network_for(1)
            layers = Network(network, "channels-last", None, network).layers(probe)
        stored = {layer.name: layer for layer in layers}
        for name in network.projected:
            # A block's last convolution and its projection are one product.
            projection = name.replace("conv3", "downsample.0")
            stored[name] = replace(stored[name], modules=(name, projection))
        return Delivered(self._memory.device, tuple(stored.values()), self._notes(network))

    @property
    def model_size_bytes(self) -> int:
        """Size of the largest network's parameters and buffers."""
        networks = list(self._networks.values()) or [self._network_for(1)]
        return max(
            sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
            for network in networks
        )

    def close(self) -> None:
        """Release networks, graphs and buffers."""
        super().close()
        self._networks, self._untried = {}, None

    def call(self, images: Tensor) -> Tensor:
        """Logits of ``images``, in channels-last."""
        logits: Tensor = self._network_for(len(images))(images)
        return logits

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(self._dtype).contiguous(memory_format=LAYOUTS["channels-last"])

    def _network_for(self, batch: int) -> FusedNetwork:
        if batch in self._networks:
            return self._networks[batch]
        if self._networks:
            return next(iter(self._networks.values()))
        if self._untried is None:
            self._untried = self._built(batch, First())
        return self._untried

    def _built(self, batch: int, choose: Choose) -> FusedNetwork:
        with torch.inference_mode(False):
            network = fused_network(self._model, batch, self._dtype, choose)
            return network.to(self._memory.torch_device)

    def _notes(self, network: FusedNetwork) -> dict[str, str]:
        count, plain = sum(self._config.depths), network.plain
        widths = ", ".join(map(str, sorted(set(network.widths.values()))))
        kernels = f"{count - len(plain)} of {count} grouped convolutions"
        notes = {
            "memory format": "channels-last",
            "kernels": kernels + f", merged to {widths} channels a group" * bool(widths),
            "tiles": "untried" if network is self._untried else "timed",
        }
        if plain:
            notes["on PyTorch's kernels"] = ", ".join(plain)
        return {**notes, **self._device_notes()}


#: Launches in a graph that is timed: between two events, one of a few microseconds would be lost in
#: what it takes to start a graph.
_CALLS = 8


@contextmanager
def timed_tiles(memory: DeviceMemory, dtype: torch.dtype) -> Iterator[Tuned]:
    """Chooses the fastest tiles on the device of ``memory``, and says which it times."""

    def race(launches: Sequence[Launch]) -> list[float]:
        count = _CALLS if memory.on_cuda else 1
        calls = {str(i): partial(_repeated, launch, count) for i, launch in enumerate(launches)}
        times = time_calls(calls, memory, graph=memory.on_cuda)
        return [min(samples) for samples in times.values()]

    gpu, device = memory.device.partition(" ")[2], torch.device(memory.torch_device)
    ahead = device.type != "cuda" or may_copy_ahead(torch.cuda.get_device_capability())
    with steps("tiles of the kernels") as say:
        yield Tuned(race, dtype, device, gpu, say, copied_ahead=ahead)


def _repeated(launch: Launch, count: int) -> object:
    for _ in range(count - 1):
        launch()
    return launch()
