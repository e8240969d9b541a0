"""The layers of a network that OpenVINO has compiled."""

from __future__ import annotations

from typing import Any

from resnext.network.layers import module_of
from resnext.runtimes.session import DeliveredLayer

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


def _modules(nodes: list[str], modules: dict[str, str]) -> tuple[str, ...]:
    # OpenVINO splits a node into parts with names such as conv1/WithoutBiases.
    own = [module for name in nodes if (module := module_of(name.partition("/")[0]))]
    return tuple(dict.fromkeys(own or [modules[name] for name in nodes if name in modules]))
