"""How much of a network got the precision asked for: counted in multiply-accumulates, so that a
stem is not a stage.
"""

from __future__ import annotations

from resnext.artifact.records import EngineLayer, PackageRecord
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers, module_of
from resnext.runtimes.session import Delivered, DeliveredLayer


def delivered_share(delivered: Delivered, config: ResNeXtConfig, dtype: str) -> float:
    """Share (0 to 1) of the multiply-accumulates of convolutions and classifier that were done in
    ``dtype``.

    A module that no layer names counts as not delivered; one that several layers share counts if
    all agree.
    """
    missed = {name for name, _ in undelivered(delivered, config, dtype)}
    macs = {layer.name: layer.macs for layer in layers(config)}
    return sum(count for name, count in macs.items() if name not in missed) / sum(macs.values())


def undelivered(
    delivered: Delivered, config: ResNeXtConfig, dtype: str
) -> tuple[tuple[str, str], ...]:
    """Modules that did not get ``dtype``, in the network's order, each with what it got.

    That is an element type, several joined by ``+`` where parts of it differ, or ``unseen`` where
    no layer names it.
    """
    got: dict[str, set[str]] = {}
    for layer in delivered.layers:
        for module in layer.modules:
            got.setdefault(module, set()).add(layer.dtype)
    return tuple(
        (layer.name, "+".join(sorted(got.get(layer.name, {"unseen"}))))
        for layer in layers(config)
        if got.get(layer.name) != {dtype}
    )


def delivered_from_engine(engine: tuple[EngineLayer, ...], device: str) -> Delivered:
    """The layers of an engine, as a session reports them.

    Args:
        engine: layers, as TensorRT reports them.
        device: where the engine runs.
    """
    products = {module for layer in engine if layer.multiplies for module in _modules(layer)}
    found = []
    for layer in engine:
        # Casts and reshapes around a product bear its node's name too. They stand for it only where
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
