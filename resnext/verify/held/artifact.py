"""Whether an artifact's file is the network that its manifest names, as far as its bytes say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, refuse_different
from resnext.errors import BadArtifact, GateFailed
from resnext.network.layers import layers
from resnext.precision import PRECISIONS
from resnext.weights.spec import Weights

from .graph import Graph, OddGraph
from .network import Structure, structure_of
from .onnx_graph import read_onnx_graph
from .openvino_graph import read_openvino_graph
from .weights import weight_differences

#: Formats whose graph and weights can be read from the file.
_READERS: Mapping[str, Callable[[Path], Graph]] = {
    "onnx": read_onnx_graph,
    "openvino": read_openvino_graph,
}
_SHOWN = 3


def check_graph(artifact: Artifact) -> Structure | None:
    """Check that the file's graph is that of the manifest's network at its precision.

    Of a package, only the layers that its record names can be known; of an engine, nothing.

    Returns:
        The graph with its stored weights; None for a package or an engine.

    Raises:
        BadArtifact: it is another graph; names the node, what is there and what an export has.
    """
    manifest = artifact.manifest
    try:
        if manifest.package is not None:
            _check_layers(artifact)
        if manifest.kind not in _READERS:
            return None
        graph = _READERS[manifest.kind](artifact.path)
        refuse_different(artifact, different_facts(manifest, graph.metadata.get))
        return structure_of(graph, manifest)
    except OddGraph as exc:
        raise BadArtifact(
            f"{artifact.path} is no export of its manifest's network: {exc}",
            hint="export the artifact again",
        ) from exc


def differences(artifact: Artifact, structure: Structure | None, weights: Weights) -> list[str]:
    """Where the file's weights and scales are not those of ``weights`` at its precision.

    Args:
        artifact: the artifact.
        structure: what `check_graph` returned.
        weights: what the artifact was made from.

    Returns:
        The first lines, and a count of the others; empty if all is equal up to rounding.
    """
    if structure is None:
        return []
    record = artifact.manifest.quantization
    lines = weight_differences(structure, weights, None if record is None else record.ranges)
    more = [f"{len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]


def refuse_other_weights(artifact: Artifact, weights: Weights) -> None:
    """Check graph and stored weights.

    Raises:
        BadArtifact: as `check_graph`.
        GateFailed: stored weights or scales are not the network's; names layer, stored and allowed.
    """
    if odd := differences(artifact, check_graph(artifact), weights):
        raise GateFailed(
            f"{artifact.path} does not store the network's weights: {'; '.join(odd)}",
            hint="export the artifact again",
        )


def _check_layers(artifact: Artifact) -> None:
    """Compare the layers that a package was compiled from with the network's."""
    manifest = artifact.manifest
    assert manifest.package is not None
    dtype = PRECISIONS[manifest.precision].weight_dtype
    wanted = {
        layer.name: ("Gemm" if layer.name == "fc" else "Conv", dtype)
        for layer in layers(manifest.config)
    }
    found = {layer.module: (layer.op, layer.dtype) for layer in manifest.package.layers}
    if len(found) != len(manifest.package.layers):
        raise OddGraph("its record names a layer twice")
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            here, there = (
                " in ".join(facts[name]) if name in facts else "missing"
                for facts in (found, wanted)
            )
            raise OddGraph(f"layer {name} of its record is {here}, and of the network {there}")
