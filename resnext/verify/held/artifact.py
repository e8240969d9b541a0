"""Whether an artifact's file is the network that its manifest names, as far as its bytes say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import check_foreign_graph
from resnext.artifact.identity import different_facts, refuse_different
from resnext.artifact.manifest import WeightsRecord
from resnext.artifact.records import PackageRecord
from resnext.errors import BadArtifact, GateFailed
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.layers import layers
from resnext.precision import PRECISIONS
from resnext.weights.spec import Weights

from .graph import Graph, OddGraph
from .network import Structure, structure_of
from .onnx_graph import read_onnx_graph
from .openvino_graph import read_openvino_graph
from .weights import weight_differences

#: Formats whose graph and weights can be read from the file.
_READERS: Mapping[str, Callable[[Artifact], Graph]] = {
    "onnx": read_onnx_graph,
    "openvino": read_openvino_graph,
}
_SHOWN = 3


def check_graph(artifact: Artifact) -> None:
    """Check that the file's graph is that of the manifest's network at its precision.

    Of a package, only the layers that its record names can be known; of an engine, nothing. Of an
    ONNX file from elsewhere, what its own graph says is compared with the manifest.

    Raises:
        BadArtifact: it is another graph, or file and manifest do not agree; names the node, what is
            there and what an export has.
    """
    try:
        _structure(artifact)
    except OddGraph as exc:
        raise _refused(artifact, exc) from exc


def differences(artifact: Artifact, weights: Weights) -> list[str]:
    """Where graph, weights or scales of the file are not those of ``weights`` at its precision.

    Args:
        artifact: the artifact.
        weights: what it was made from.

    Returns:
        The first lines, and a count of the others; empty if all is equal up to rounding.

    Raises:
        BadArtifact: file and manifest do not agree.
    """
    try:
        structure = _structure(artifact)
    except OddGraph as exc:
        return [f"the graph is not the network's: {exc}"]
    return _lines(artifact, structure, weights)


def refuse_other_weights(artifact: Artifact, weights: Weights) -> None:
    """Check graph and stored weights.

    Raises:
        BadArtifact: as `check_graph`.
        GateFailed: stored weights or scales are not the network's; names layer, stored and allowed.
    """
    try:
        structure = _structure(artifact)
    except OddGraph as exc:
        raise _refused(artifact, exc) from exc
    if odd := _lines(artifact, structure, weights):
        raise GateFailed(
            f"{artifact.path} does not store the network's weights: {'; '.join(odd)}",
            hint="export the artifact again",
        )


def _structure(artifact: Artifact) -> Structure | None:
    """The graph with its stored weights; None for a package or an engine."""
    manifest = artifact.manifest
    if manifest.foreign:
        if manifest.kind == "onnx":
            check_foreign_graph(artifact)
        return None
    if VARIANTS.get(manifest.model or "", manifest.network) != manifest.config:
        raise OddGraph(f"the manifest says {manifest.model}, which is another network")
    if manifest.package is not None:
        _check_layers(manifest.network, manifest.package)
    if manifest.kind not in _READERS:
        return None
    graph = _READERS[manifest.kind](artifact)
    different = different_facts(manifest, graph.metadata.get)
    # Weights may move, but not from generated to trained.
    here = Path(manifest.weights.source).name
    there = graph.metadata.get("resnext.weights", here)
    if _of(here).seeded != _of(there).seeded:
        different.append("whether the weights are seeded")
    refuse_different(artifact, different)
    return structure_of(graph, manifest)


def _of(source: str) -> WeightsRecord:
    return WeightsRecord(source=source, sha256="0" * 64)


def _refused(artifact: Artifact, reason: OddGraph) -> BadArtifact:
    return BadArtifact(
        f"{artifact.path} is no export of its manifest's network: {reason}",
        hint="export the artifact again",
    )


def _lines(artifact: Artifact, structure: Structure | None, weights: Weights) -> list[str]:
    manifest = artifact.manifest
    if structure is not None:
        record = manifest.quantization
        lines = weight_differences(structure, weights, None if record is None else record.ranges)
    else:
        dtype = PRECISIONS[manifest.precision].weight_dtype
        compiled = () if manifest.package is None else manifest.package.layers
        lines = tuple(
            f"{layer.module}: compiled in {layer.dtype}, not {dtype}"
            for layer in compiled
            if layer.dtype != dtype
        )
    more = [f"{len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]


def _check_layers(config: ResNeXtConfig, record: PackageRecord) -> None:
    """Compare the layers that a package was compiled from with the network's."""
    wanted = {layer.name: "Gemm" if layer.name == "fc" else "Conv" for layer in layers(config)}
    found = {layer.module: layer.op for layer in record.layers}
    if len(found) != len(record.layers):
        raise OddGraph("its record names a layer twice")
    for name in (*wanted, *found):
        here, there = (facts.get(name, "missing") for facts in (found, wanted))
        if here != there:
            raise OddGraph(f"layer {name} of its record is {here}, and of the network {there}")
