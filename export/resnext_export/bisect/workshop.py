"""Builds variants of an artifact: with other blocks in float, or with other fields changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from resnext.errors import BadArtifact, GateFailed, UsageError
from resnext.network.layers import block_of, layers
from resnext.precision import DEFAULT
from resnext.verify.check import recorded_weights
from resnext_export.options import FIELDS, FormatOptions, RequestFields
from resnext_export.registry import FORMATS
from resnext_export.request import ExportRequest
from resnext_export.store import build_or_reuse, build_step


class Workshop:
    """Makes variants of one artifact from its own request and weights, through the store.

    Args:
        artifact: fp16, bf16, int8 or fp8, made by an export.
        weights: SPEC of what it was made from, if that moved.
        scratch: folder for what is not kept.
        say: called with one line for what a user should know before the work is done, once for
            each.

    Attributes:
        weights: the network.
        request: what the artifact was exported with, in one go from the weights.
        blocks: layers in low precision, by block, in execution order.
        macs_share: share of each block in the multiply-accumulates.

    Raises:
        UsageError: it is not of a low precision, or an ONNX file from elsewhere.
        BadArtifact: its manifest does not say how it was made.
        BadWeights: the weights cannot be found, or are others.
    """

    def __init__(
        self,
        artifact: Artifact,
        weights: str | None,
        scratch: Path,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        manifest = artifact.manifest
        if manifest.foreign:
            raise UsageError(
                f"{artifact.path} is an ONNX file from elsewhere, or made from one: its layers are"
                " not known, so that none can be kept in float",
                hint="export the network from its weights",
            )
        if manifest.precision == DEFAULT:
            raise UsageError(
                f"{artifact.path} is {DEFAULT}: there is no block to keep in float",
                hint="if it misses its gate, export the artifact again",
            )
        self.request = _from_weights(artifact)
        self.weights = recorded_weights(artifact, weights)
        if weights is not None:
            self.request = replace(self.request, weights=weights)
        self._scratch, self._say = scratch, functools.cache(say)
        every = [layer for layer in layers(manifest.network) if layer.name not in manifest.left]
        self.blocks: dict[str, list[str]] = {}
        for layer in every:
            self.blocks.setdefault(block_of(layer.name), []).append(layer.name)
        total = sum(layer.macs for layer in layers(manifest.network))
        self.macs_share = {
            block: sum(layer.macs for layer in every if layer.name in names) / total
            for block, names in self.blocks.items()
        }

    def changed(self, keep: Collection[str] = (), **changes: Any) -> ExportRequest:
        """The request with further names in ``keep_fp32``, and other changes."""
        names = tuple(dict.fromkeys((*(self.request.keep_fp32 or ()), *keep)))
        return replace(self.request, keep_fp32=names or None, **changes)

    def build(self, request: ExportRequest) -> Artifact:
        """The artifact of ``request``, in the work folder. It is not held against the export's own
        gate: the search has another, on other images.

        Raises:
            GateFailed: a value is beyond the precision, or the float32 export is wrong.
            ResnextError: whatever the build raises.
        """
        *before, last = request.steps()
        source: Any = self.weights
        for step in before:  # what is float is checked once, for all
            low = step.precision not in (None, DEFAULT)
            folder = self._scratch if low else None
            source = build_step(
                step, self.weights, source, folder, check=not low, say=self._say
            ).artifact
        return build_step(
            last, self.weights, source, self._scratch, check=False, say=self._say
        ).artifact

    def checked(self, artifact: Artifact, request: ExportRequest) -> Artifact | None:
        """``artifact``, which ``request`` made, with the record of the export's own check; itself
        if it is an engine, of which no two builds are the same; None if that check refuses it.
        """
        if artifact.manifest.engine is not None:
            return artifact
        try:
            again = build_or_reuse(request, self.weights, say=self._say).artifact
        except GateFailed:
            return None
        same = again.manifest.file_sha256 == artifact.manifest.file_sha256
        return again if same else artifact

    def float_request(self) -> ExportRequest:
        """The float32 artifact of the same format."""
        plain: dict[str, Any] = {
            each.name: each.default
            for each in fields(RequestFields)
            if each.name in FIELDS and FIELDS[each.name].section == "Precision"
        }
        return replace(self.request, **plain)

    def alone(self, block: str, **changes: Any) -> Artifact:
        """The ONNX artifact in which only ``block`` is in low precision."""
        others = [name for names in self.blocks.values() for name in names]
        request = self.changed(
            [name for name in others if name not in self.blocks[block]], **changes
        )
        if not FORMATS[request.format].is_source:
            request = request.steps()[-2]
        return self.build(request)


def _from_weights(artifact: Artifact) -> ExportRequest:
    """The request of ``artifact`` as one export from the weights: what its parents were requested
    with, and what it adds to that.

    Raises:
        BadArtifact: a manifest on the way stores no request, or is not there.
    """
    request = _stored(artifact.manifest, artifact.directory)
    chain = [request]
    while chain[-1].onnx is not None:
        folder = chain[-1].onnx
        chain.append(_stored(read_manifest(folder / MANIFEST_NAME), folder))
    merged: dict[str, Any] = {}
    for each in reversed(chain):
        merged |= {k: v for k, v in each.record().items() if k not in ("onnx", "options")}
    merged["options"] = request.options if request.format != "onnx" else FormatOptions()
    return ExportRequest(**merged)


def _stored(manifest: Manifest, folder: Path) -> ExportRequest:
    if manifest.request is None:
        raise BadArtifact(
            f"the manifest of {folder} does not say how it was made", hint="export it again"
        )
    try:
        return ExportRequest(**manifest.request)
    except UsageError as exc:
        raise BadArtifact(f"the request in the manifest of {folder} is not valid: {exc}") from exc
