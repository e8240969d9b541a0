"""What an engine's or a package's record says of its layers, as a session reports it."""

from __future__ import annotations

from resnext.artifact.records import EngineLayer, PackageRecord
from resnext.network.layers import module_of

from .session import Delivered, DeliveredLayer


def delivered_from_engine(engine: tuple[EngineLayer, ...], device: str) -> Delivered:
    """The layers of an engine, as a session reports them.

    Args:
        engine: layers, as TensorRT reports them.
        device: where the engine runs.
    """
    products = {module for layer in engine if layer.multiplies for module in _modules(layer)}
    found = []
    for layer in engine:
        # Casts and reshapes around a product have its node's name too. They stand for it only if
        # none is seen.
        modules = tuple(
            module for module in _modules(layer) if layer.multiplies or module not in products
        )
        op = ("Gemm" if "fc" in modules else "Conv") if modules else layer.kind
        found.append(DeliveredLayer(layer.name, op, layer.dtype, device, modules))
    return Delivered(device, tuple(found))


def delivered_from_package(record: PackageRecord, device: str) -> Delivered:
    """The layers of a .pt2 package, in the element types that the compiler was given.

    Args:
        record: the package's.
        device: where it runs, or is to run.
    """
    found = tuple(
        DeliveredLayer(one.module, one.op, one.dtype, device, (one.module,))
        for one in record.layers
    )
    notes = {
        "layers from": "the graph that the compiler was given",
        "kernels": record.kernels_line(),
        "memory format": "channels-last",
        "frozen": "yes" if record.frozen else "no",
        "compiled by": f"PyTorch {record.torch}",
    }
    return Delivered(device, found, notes)


def _modules(layer: EngineLayer) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module for node in layer.nodes if (module := module_of(node))))
