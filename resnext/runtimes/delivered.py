"""The layers in an engine's or package's record, in the form that sessions report."""

from __future__ import annotations

from resnext.artifact.records import EngineLayer, PackageRecord
from resnext.network.layers import module_of

from .session import Delivered, DeliveredLayer


def delivered_from_engine(engine: tuple[EngineLayer, ...], device: str) -> Delivered:
    """The layers of an engine.

    Args:
        engine: layers as TensorRT reports them.
        device: device of the engine.
    """
    products = {module for layer in engine if layer.multiplies for module in _modules(layer)}
    layers = []
    for layer in engine:
        # Casts and reshapes around a product also have its node's name. They only count for its
        # module if no product does.
        modules = tuple(
            module for module in _modules(layer) if layer.multiplies or module not in products
        )
        op = "Gemm" if layer.multiplies else layer.kind
        if modules:
            op = "Gemm" if "fc" in modules else "Conv"
        layers.append(DeliveredLayer(layer.name, op, layer.dtype, device, modules))
    return Delivered(device, tuple(layers))


def delivered_from_package(record: PackageRecord, device: str) -> Delivered:
    """The layers of a .pt2 package, with the element types in the compiler's input.

    Args:
        record: the package's record.
        device: device of the package.
    """
    layers = tuple(
        DeliveredLayer(layer.module, layer.op, layer.dtype, device, (layer.module,))
        for layer in record.layers
    )
    notes = {
        "layers from": "the graph that the compiler was given",
        "kernels": record.kernels_line(),
        "memory format": "channels-last",
        "frozen": "yes" if record.frozen else "no",
        "compiled by": f"PyTorch {record.torch}",
    }
    if record.kernels_from == "fused":
        grouped = [layer for layer in record.layers if layer.module.endswith(".conv2")]
        plain = [layer.module for layer in grouped if not layer.fused]
        notes["fused"] = f"{len(grouped) - len(plain)} of {len(grouped)} grouped convolutions"
        if plain:
            notes["on PyTorch's kernels"] = ", ".join(plain)
    return Delivered(device, layers, notes)


def _modules(layer: EngineLayer) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module for node in layer.nodes if (module := module_of(node))))
