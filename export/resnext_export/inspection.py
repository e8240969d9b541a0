"""Facts about an artifact: whether this machine can load it, and the precision of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.artifact.graph import onnx_graph
from resnext.artifact.manifest import Manifest
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.artifact.specs import numpy_dtype
from resnext.findings import Finding
from resnext.machine.machine import Machine
from resnext.network.layers import layers, macs
from resnext.precision import NUMERICS
from resnext.progress import working
from resnext.runtimes.availability import available, require
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.delivered import delivered_from_engine, delivered_from_package
from resnext.runtimes.ort.needed import Needed, needed_by
from resnext.runtimes.pt2.package import check_package_bytes
from resnext.runtimes.registry import (
    LOCAL_RUNTIMES,
    REFERENCE,
    RUNTIMES,
    SessionOptions,
    check_subject,
    natural_runtime,
    open_session,
    runtime_named,
)
from resnext.runtimes.session import HEAVY, Delivered
from resnext.runtimes.trt.compatibility import remarks
from resnext.runtimes.trt.identity import check_engine_bytes
from resnext.runtimes.trt.library import RTX_DEFAULT_TARGETS
from resnext.verify.check import artifact_weights
from resnext.verify.delivered import share_of, undelivered
from resnext.verify.held.artifact import check_graph


@dataclass(frozen=True)
class Inspection:
    """An artifact on this machine.

    Attributes:
        artifact: the artifact; its bytes agree with its manifest.
        machine: this machine.
        findings: what keeps the artifact from loading here; empty if it loads.
        remarks: what to know about loading it here.
        delivered: the precision that each layer got.
        source: where ``delivered`` comes from.
        share: share (0 to 1) of convolution and product FLOPs in the requested precision.
        needed: what the bytes of an ONNX file ask of a runtime; None for other formats.
    """

    artifact: Artifact
    machine: Machine
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]
    delivered: Delivered
    source: str
    share: float
    needed: Needed | None

    @cached_property
    def backends(self) -> Mapping[str, str | None]:
        """The backends for this format and precision, each with the reason why it cannot run here,
        or None. For an ONNX file, those that run the file itself.
        """
        return _backends(self.artifact.manifest, self.findings)

    def share_line(self) -> str:
        """`share` in words, with the first layers that got another precision."""
        return _share_line(self.artifact.manifest, self.delivered, self.share)

    @property
    def kept_share(self) -> float:
        """Share of the same FLOPs in layers that are kept in a wider type by request."""
        config, kept = self.artifact.manifest.config, self.artifact.manifest.kept_by_request
        if config is None or not kept:
            return 0.0
        return sum(each.macs for each in layers(config) if each.name in kept) / macs(config)

    def targets(self) -> str:
        """The GPUs that a TensorRT-RTX engine was built for."""
        return engine_targets(self.artifact.manifest)


def inspect_artifact(path: Path, backend: str | None = None) -> Inspection:
    """Read the artifact in ``path``, and find out whether it loads here and what its layers get.

    Args:
        path: folder of the artifact, the file in it, or an ONNX file from elsewhere.
        backend: open the artifact on this backend and ask the session; None means the manifest of
            an engine or package, else a session on ``ort`` or ``openvino``.

    Raises:
        BadArtifact: the artifact is damaged, or its bytes and its manifest disagree.
        UsageError: ``backend`` does not run this format or precision.
        MissingRequirement: ``backend`` is not available here.
    """
    artifact = open_artifact(path)
    check_engine_bytes(artifact)
    check_onnx_precision(artifact)
    check_package_bytes(artifact)
    check_graph(artifact)
    manifest = artifact.manifest
    machine = machine_for(manifest)
    delivered, source = _delivered(artifact, backend)
    return Inspection(
        artifact,
        machine,
        loadable(manifest, machine),
        remarks(manifest, machine),
        delivered,
        source,
        share_of(manifest, delivered),
        needed_by(onnx_graph(artifact, runs=False)) if manifest.kind == "onnx" else None,
    )


def engine_targets(manifest: Manifest) -> str:
    """The GPUs that a TensorRT-RTX engine was built for, in words."""
    assert manifest.engine is not None
    return ", ".join(manifest.engine.options.targets) or RTX_DEFAULT_TARGETS


def delivered_line(manifest: Manifest) -> str:
    """The share that an engine's manifest records, in words."""
    record = manifest.engine
    assert record is not None
    delivered = delivered_from_engine(record.layers, record.gpu or "ahead of time")
    return (
        f"{_share_line(manifest, delivered, share_of(manifest, delivered))} ({record.layers_from})"
    )


def _share_line(manifest: Manifest, delivered: Delivered, share: float) -> str:
    requested = NUMERICS[manifest.numerics].compute_dtypes
    if manifest.foreign and not any(layer.op in HEAVY for layer in delivered.layers):
        return "not known: no layer says that it is a convolution or product"
    text = f"{' or '.join(requested)} in {share:.1%} of convolution and product FLOPs"
    missed = undelivered(delivered, manifest.config, requested[0]) if share < 1 else ()
    missed = tuple(entry for entry in missed if entry[1] not in requested)
    if missed:
        some = ", ".join(f"{name} {actual}" for name, actual in missed[:3])
        text += f"; not in {some}" + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
    return text


def _backends(manifest: Manifest, findings: tuple[Finding, ...]) -> dict[str, str | None]:
    able = [
        name
        for name, known in ((name, RUNTIMES[name]) for name in LOCAL_RUNTIMES)
        if manifest.kind in (known.formats[0], name)
        and name not in ("ort", REFERENCE)  # an alias, and one that runs everything
        and manifest.precision in known.precisions
    ]
    # What keeps an engine or package from loading keeps it from running on any of them.
    if findings:
        return dict.fromkeys(able, findings[0].message)
    answers = {name: available(name, prebuilt=True) for name in able}
    return {name: None if answer is None else str(answer) for name, answer in answers.items()}


def _delivered(artifact: Artifact, backend: str | None) -> tuple[Delivered, str]:
    record, package = artifact.manifest.engine, artifact.manifest.package
    if record is not None and backend is None:
        delivered = delivered_from_engine(record.layers, record.gpu or "ahead of time")
        return delivered, f"from the manifest, {record.layers_from}"
    if package is not None and backend is None:
        delivered = delivered_from_package(package, package.gpu or package.device)
        return delivered, f"from the manifest, {delivered.notes['layers from']}"
    name = backend or natural_runtime(artifact)
    if backend is None and artifact.manifest.precision not in runtime_named(name).precisions:
        return (
            Delivered("nowhere", ()),
            f"not reported: {name} does not run {artifact.manifest.precision}",
        )
    subject: Any = artifact
    precision = artifact.manifest.precision
    live = runtime_named(name).live
    if not live:
        check_subject(name, artifact)
    require(name, prebuilt=True)
    if live:
        subject = artifact_weights(artifact)
    with (
        working(f"asking {name}"),
        open_session(subject, name, options=SessionOptions(precision=precision)) as session,
    ):
        if record is not None or name.startswith("torch"):
            _bind_smallest(artifact, session, live_model=record is None)
        return session.delivered(), f"reported by {name}, running"


def _bind_smallest(artifact: Artifact, session: Any, *, live_model: bool) -> None:
    manifest = artifact.manifest
    spec = session.inputs[0]
    batch = 1 if live_model else manifest.batch.min
    session.bind({spec.name: np.zeros((batch, *spec.shape[1:]), numpy_dtype(spec.dtype))})
