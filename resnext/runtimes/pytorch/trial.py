"""Short trials that pick the fastest form of a network."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from resnext.network.config import ResNeXtConfig
from resnext.network.forms import merged_macs
from resnext.runtimes.buffers import DeviceMemory
from resnext.runtimes.tensor_session import WARM_RUNS
from resnext.timing.clock import iterations_for, time_device, time_visit
from resnext.timing.interleave import turns
from resnext.timing.paired import ratio

from .network import Network

#: Rounds of a trial; the candidates take turns, so that drift of the machine affects all alike.
_TURNS = 3
#: Device time of one turn on CUDA, and its maximum number of runs.
_TURN_NS, _MOST_RUNS = 20_000_000, 50
#: A candidate replaces the first only if its time is below this fraction of the first's: a trial is
#: short, and the first is the usual choice.
_WORTHWHILE = 0.97
#: Minimum widths of groups that ``merge_groups="auto"`` tries.
_WIDTHS = (8, 16, 32, 64, 128)


def widths_to_try(config: ResNeXtConfig) -> tuple[int, ...]:
    """Minimum widths of groups that give different networks, none of them the unmerged one."""
    forms = {merged_macs(config, 1): 0}
    for width in _WIDTHS:
        forms.setdefault(merged_macs(config, width), width)
    return tuple(width for width in forms.values() if width)


def time_forms(
    networks: Sequence[Network], images: Tensor, memory: DeviceMemory, *, graph: bool
) -> Mapping[str, list[float]]:
    """Milliseconds per run of each network, by title; the networks take turns.

    Args:
        networks: the candidates.
        images: their input, on the device.
        memory: stream and graphs.
        graph: time replays of a captured CUDA graph.
    """
    calls = {network.title: partial(network, network.ready(images)) for network in networks}
    return time_calls(calls, memory, graph=graph)


def time_calls(
    calls: Mapping[str, Callable[[], object]], memory: DeviceMemory, *, graph: bool
) -> Mapping[str, list[float]]:
    """Milliseconds per run of each call, by title; the calls take turns.

    Args:
        calls: what to run.
        memory: stream and graphs.
        graph: time replays of a captured CUDA graph.
    """
    trials = [_Trial(title, call, memory, graph=graph) for title, call in calls.items()]
    samples: dict[str, list[float]] = {title: [] for title in calls}
    for _, trial in turns(trials, _TURNS):
        samples[trial.title].append(trial.milliseconds())
    return samples


def fastest(networks: Sequence[Network], times: Mapping[str, list[float]]) -> Network:
    """The network with the best times, or the first if none is clearly faster."""
    first = networks[0]
    ratios = {title: ratio(samples, times[first.title]).median for title, samples in times.items()}
    best = min(networks, key=lambda network: ratios[network.title])
    return best if ratios[best.title] < _WORTHWHILE else first


class _Trial:
    """One call, with the interface that the clock times.

    Args:
        title: of the call.
        call: what to run.
        memory: stream and graphs.
        graph: capture a CUDA graph, and time its replays.
    """

    def __init__(
        self, title: str, call: Callable[[], object], memory: DeviceMemory, *, graph: bool
    ) -> None:
        self.title, self._call, self._memory = title, call, memory
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
        """Time of one run: the median of one turn on CUDA, a single run on a CPU."""
        if not self._memory.on_cuda:
            return time_visit(self.enqueue, 1)[0] / 1e6
        estimate_ns = statistics.median(time_device(self, 3)[0])
        runs = iterations_for(_TURN_NS, estimate_ns, least=3, most=_MOST_RUNS)
        return statistics.median(time_device(self, runs)[0]) / 1e6

    def _launch(self) -> None:
        # Stored, because a captured graph writes there.
        self._result = self._call()
