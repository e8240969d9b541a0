"""The layers of a network that OpenVINO has compiled."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from resnext.network.layers import module_of
from resnext.runtimes.session import DeliveredLayer, LayerTime

from .library import dtype_name

#: Layers that are convolutions or matrix products, by OpenVINO's name.
HEAVY = {"Convolution": "Conv", "FullyConnected": "Gemm", "MatMul": "Gemm"}
#: Layers that compute nothing.
_IDLE = ("Const", "Input", "Output")


def layer_facts(compiled: Any) -> list[dict[str, str]]:
    """OpenVINO's facts about each layer of a compiled network, in the order of execution."""
    return [
        {key: str(fact.value) for key, fact in node.get_rt_info().items()}
        | {"name": node.get_friendly_name()}
        for node in compiled.get_runtime_model().get_ordered_ops()
    ]


def delivered_layers(compiled: Any, modules: dict[str, str]) -> tuple[DeliveredLayer, ...]:
    """The layers that compute something.

    Args:
        compiled: an ``openvino.CompiledModel``.
        modules: `resnext.runtimes.openvino.ir.modules_by_node` of the model it was compiled from.
    """
    layers = []
    for facts in layer_facts(compiled):
        kind = facts["layerType"]
        if kind not in _IDLE:
            nodes = facts["originalLayersNames"].split(",") if kind in HEAVY else []
            layers.append(
                DeliveredLayer(
                    facts["name"],
                    HEAVY.get(kind, kind),
                    dtype_name(facts["runtimePrecision"]),
                    "cpu",
                    _modules(nodes, modules),
                )
            )
    return tuple(layers)


def mean_times(request: Any) -> dict[str, int]:
    """Mean microseconds of each layer that ran, by its name: over all runs since the network was
    compiled, rounded down.

    Args:
        request: an ``openvino.InferRequest`` of a network with performance counters.
    """
    return {
        info.node_name: round(info.real_time.total_seconds() * 1e6)
        for info in request.get_profiling_info()
        if info.status == info.Status.EXECUTED
    }


def median_run(means: Sequence[int]) -> float:
    """The median of all runs but the first, microseconds.

    Args:
        means: after each run, the mean of all runs so far, rounded down. Each run was rounded down
            first.

    Returns:
        A value that is off by a few microseconds: a run's is the difference of two sums, each off
        by up to as many as there were runs.
    """
    # Rounding down twice takes one microsecond on average.
    sums = [count * (mean + 1) if mean else 0 for count, mean in enumerate(means, 1)]
    return statistics.median(max(0, after - before) for before, after in itertools.pairwise(sums))


def layer_times(
    compiled: Any, modules: dict[str, str], means: Sequence[dict[str, int]]
) -> tuple[LayerTime, ...]:
    """The layers that ran, with the median of all runs but the first.

    Args:
        compiled: an ``openvino.CompiledModel``.
        modules: as for `delivered_layers`.
        means: `mean_times` after each run since it was compiled.
    """
    kernels = {facts["name"]: facts["primitiveType"] for facts in layer_facts(compiled)}
    return tuple(
        LayerTime(
            layer,
            # a mean below a microsecond is reported as not run
            median_run([mean.get(layer.name, 0) for mean in means]) * 1e3,
            kernels[layer.name],
        )
        for layer in delivered_layers(compiled, modules)
        if any(layer.name in mean for mean in means)  # others are computed from constants, once
    )


def _modules(nodes: list[str], modules: dict[str, str]) -> tuple[str, ...]:
    # OpenVINO splits a node into parts with names such as conv1/WithoutBiases.
    own = [module for name in nodes if (module := module_of(name.partition("/")[0]))]
    return tuple(dict.fromkeys(own or [modules[name] for name in nodes if name in modules]))
