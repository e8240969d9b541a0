"""The traced graph of a .pt2 package: its layers, and whether it is what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch

from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import PackageLayer
from resnext.errors import GateFailed
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers as weighted_layers
from resnext.precision import PRECISIONS, Precision

_OPS: Mapping[str, Literal["Conv", "Gemm"]] = {
    "aten.conv2d.default": "Conv",
    "aten.linear.default": "Gemm",
    "resnext.grouped_conv3x3.default": "Conv",
    "resnext.pointwise.default": "Conv",
}
#: The namespace of the toolkit's operators (`resnext.kernels.ops`), which torch.export keeps.
_OURS = "resnext."
#: Place of the projection's weights among the arguments of `resnext.kernels.ops.pointwise`.
_PROJECTION = 5


def graph_layers(program: torch.export.ExportedProgram) -> tuple[PackageLayer, ...]:
    """Convolutions and classifier, each with its module; a block's last product is two layers if it
    computes the projection, too.
    """
    layers = []
    for node in program.graph.nodes:
        if op := _OPS.get(str(node.target)):
            # The innermost of the calling modules: (path, class).
            module = [path for path, _ in node.meta["nn_module_stack"].values()][-1].replace(
                "model.", ""
            )
            fused = str(node.target).startswith(_OURS)
            weights = {module: node.args[1]}
            if fused and len(node.args) > _PROJECTION and node.args[_PROJECTION] is not None:
                weights[module.replace("conv3", "downsample.0")] = node.args[_PROJECTION]
            for name, weight in weights.items():
                dtype = "+".join(sorted({_dtype(each) for each in (node, node.args[0], weight)}))
                layers.append(PackageLayer(module=name, op=op, dtype=dtype, fused=fused))
    return tuple(layers)


def toolkit_kernels(program: torch.export.ExportedProgram) -> dict[str, int]:
    """Calls of the toolkit's operators, each of which is one kernel."""
    targets = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return dict(
        Counter(
            target.removeprefix(_OURS).removesuffix(".default")
            for target in targets
            if target.startswith(_OURS)
        )
    )


def check_as_requested(
    program: torch.export.ExportedProgram,
    layers: tuple[PackageLayer, ...],
    config: ResNeXtConfig,
    batch: BatchRange,
    precision: Precision,
    plain: tuple[str, ...] | None = None,
) -> None:
    """Check a traced graph before it is compiled.

    Args:
        program: the traced network.
        layers: its layers.
        config: the network's configuration.
        batch: batch sizes that were asked for.
        precision: that was asked for.
        plain: grouped convolutions that the toolkit's kernels do not take; None if they were not
            asked for.

    Raises:
        GateFailed: batch fixed, batch norms not folded, layers missing, in another precision, or on
            other kernels.
    """
    graph = program.graph
    (name,) = program.graph_signature.user_inputs
    first = next(node for node in graph.nodes if node.name == name).meta["val"].shape[0]
    if isinstance(first, int) != batch.static:
        raise GateFailed(
            f"torch.export fixed the batch at {first}",
            hint="upgrade torch, or use a static `batch`",
        )
    if norms := [node for node in graph.nodes if "batch_norm" in str(node.target)]:
        raise GateFailed(
            f"{len(norms)} batch norms were not folded into a convolution, first {norms[0].name}"
        )
    expected = {layer.name for layer in weighted_layers(config)}
    if differ := sorted(expected ^ {layer.module for layer in layers}):
        raise GateFailed(
            f"torch.export lost or added {len(differ)} layers, first {differ[0]}",
            hint="upgrade torch",
        )
    if odd := [layer for layer in layers if layer.dtype != PRECISIONS[precision].weight_dtype]:
        raise GateFailed(
            f"{len(odd)} layers are not {precision}, first {odd[0].module} with {odd[0].dtype}"
        )
    # Stem and classifier are PyTorch's in any case.
    ours = set() if plain is None else expected - {"conv1", "fc", *plain}
    if differ := sorted(ours ^ {layer.module for layer in layers if layer.fused}):
        raise GateFailed(
            f"{len(differ)} layers are not on the kernels that were asked for, first {differ[0]}"
        )


def _dtype(node: Any) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")
