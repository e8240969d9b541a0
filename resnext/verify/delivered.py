"""Share of a network that ran in the requested precision, weighted by multiply-accumulates."""

from __future__ import annotations

from resnext.artifact.manifest import Manifest
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers
from resnext.precision import NUMERICS
from resnext.runtimes.session import HEAVY, Delivered, DeliveredLayer


def delivered_share(delivered: Delivered, config: ResNeXtConfig | None, dtype: str) -> float:
    """Share (0 to 1) of the multiply-accumulates of convolutions and classifier that ran in
    ``dtype``.

    A module that no layer names counts as not delivered; one that several layers share counts if
    all agree. If the network is not known (``config`` is None), it is the share of the convolutions
    and products that the runtime reports, by their number.
    """
    if config is None:
        heavy = _heavy(delivered)
        return sum(layer.dtype == dtype for layer in heavy) / len(heavy) if heavy else 0.0
    missed = {name for name, _ in undelivered(delivered, config, dtype)}
    macs = {layer.name: layer.macs for layer in layers(config)}
    return sum(count for name, count in macs.items() if name not in missed) / sum(macs.values())


def share_of(manifest: Manifest, delivered: Delivered) -> float:
    """Share (0 to 1) of convolution and product FLOPs in the precision of ``manifest``."""
    return sum(
        delivered_share(delivered, manifest.config, dtype)
        for dtype in NUMERICS[manifest.numerics].compute_dtypes
    )


def undelivered(
    delivered: Delivered, config: ResNeXtConfig | None, dtype: str
) -> tuple[tuple[str, str], ...]:
    """Modules that did not run in ``dtype``, in the network's order, each with its actual dtype.

    Several dtypes are joined by ``+`` if parts of a module differ; ``unseen`` means that no layer
    names the module. If the network is not known, they are the runtime's own layers.
    """
    if config is None:
        return tuple(
            (layer.name, layer.dtype) for layer in _heavy(delivered) if layer.dtype != dtype
        )
    got: dict[str, set[str]] = {}
    for layer in delivered.layers:
        for module in layer.modules:
            got.setdefault(module, set()).add(layer.dtype)
    return tuple(
        (layer.name, "+".join(sorted(got.get(layer.name, {"unseen"}))))
        for layer in layers(config)
        if got.get(layer.name) != {dtype}
    )


def _heavy(delivered: Delivered) -> list[DeliveredLayer]:
    return [layer for layer in delivered.layers if layer.op in HEAVY]
