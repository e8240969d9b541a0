"""From a request to a published artifact: the front door, and the one way through the formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from resnext.artifact.files import COMPANIONS, KIT_NAME, Artifact, check_destination, read_artifact
from resnext.artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.artifact.trust import check_signed, current_trust
from resnext.errors import BadArtifact, BadWeights, UsageError
from resnext.precision import DEFAULT
from resnext.progress import working
from resnext.readers.files import exists, is_file
from resnext.runtimes.ort.needed import check_taken_here
from resnext.runtimes.pytorch.release import refuse_older_torch
from resnext.storage import scratch_folder
from resnext.verify.check import as_recorded, recorded_weights
from resnext.verify.conformance import write_kit
from resnext.verify.held.artifact import refuse_other_weights
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import Weights, load_weights, preprocessed

from .formats.base import builder_for
from .publish import Built, publish
from .registry import FORMATS
from .request import ExportRequest
from .store import build_step


def export(
    source: str | Path | Weights | Artifact,
    output: str | Path,
    *,
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
    **fields: Any,
) -> Artifact:
    """Export a network, and prove that the written file computes what PyTorch computes.

    Args:
        source: weights (``digits``, ``seeded:1``, a checkpoint's path, `Weights`), or an ONNX
            artifact to start from (`Artifact`, or the path of its folder).
        output: folder to make, whole or not at all.
        check: compare the written file with PyTorch; if not, the manifest has no check.
        force: replace an artifact that is already there.
        say: called with one line for what a user should know before the work is done.
        **fields: of `ExportRequest`, for example ``format``, ``model``, ``precision``, ``batch``,
            ``calibration``, and the options of the format.

    Raises:
        UsageError: fields that do not go together, or ``output`` is taken.
        MissingRequirement: a library, compiler, GPU or disk space is missing.
        BadInput: weights, images or an artifact that cannot be used.
        GateFailed: the written file does not compute what PyTorch computes. Nothing is written.
    """
    weights = source if isinstance(source, Weights) else None
    if isinstance(source, Artifact):
        fields["onnx"] = source.directory
    elif isinstance(source, Weights):
        fields |= {"weights": source.source, "weights_key": source.key}
    elif is_file(Path(source) / "manifest.json"):
        fields["onnx"] = Path(source)
    else:
        fields["weights"] = str(source)
    request = ExportRequest(**fields)
    return run(request, Path(output), weights=weights, check=check, force=force, say=say)


def run(
    request: ExportRequest,
    output: Path | None = None,
    *,
    weights: Weights | None = None,
    recorded: Manifest | None = None,
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Do what ``request`` says.

    Args:
        request: what to export.
        output: folder to make; None means one in the current folder that says what is in it.
        weights: what ``request`` names, if they are loaded already.
        recorded: of the artifact that is made again: it names the weights, and says what they do
            not say themselves.
        check: as `export`.
        force: as `export`.
        say: as `export`.

    Raises:
        BadWeights: they have another digest.
        ResnextError: as `export`.
    """
    builder = builder_for(request)
    kind = builder.prepare(request)
    if request.opset is not None:
        check_taken_here(request.opset, quantized=request.precision == "int8")
    if output is not None:
        check_destination(output, force=force)
    start = None if request.onnx is None else read_artifact(request.onnx)
    if start is not None and start.manifest.kind != FORMATS[request.format].source:
        raise UsageError(
            f"`format` {request.format} is made from an ONNX artifact; {start.directory} is of kind"
            f" {start.manifest.kind}"
        )
    held: Artifact | None = None
    if weights is None and start is not None:
        check_onnx_precision(start)
        weights = recorded_weights(start, request.weights)
        held = start if check else None
    elif weights is None:
        refuse_older_torch()
        with working("loading weights"):
            weights = load_weights(
                request.weights,
                request.model,
                num_classes=request.num_classes,
                input_size=request.pixels(),
                key=request.weights_key,
            )
        for line in weights.notes:
            say(line)
    if start is None:
        weights = preprocessed(weights, request.preprocessing())
    if recorded is not None:
        if weights.sha256 != (digest := recorded.weights.sha256):
            raise BadWeights(
                f"{weights.source} has other weights than the artifact was made from (sha256"
                f" {weights.sha256[:12]}, manifest {digest[:12]})",
                hint="restore them, or export the new ones",
            )
        weights = as_recorded(weights, recorded)
    if start is None and request.numerics.calibrated:
        request.images(weights)  # refuses now what would fail after the first step
    *before, _ = request.steps(start.manifest.precision if start else None)
    precision = request.precision or (start.manifest.precision if start else DEFAULT)
    directory = output or request.folder(weights, precision, kind)
    proofs = sorted(COMPANIONS - {KIT_NAME})
    if dropped := [name for name in proofs if exists(directory / name)]:
        say(f"replacing {directory} drops its {', '.join(dropped)}: judge and sign it again")
    source: Weights | Artifact = start or weights
    with scratch_folder() as scratch:
        store = None if check else scratch  # what is not checked is not kept
        for step in before:
            source = build_step(step, weights, source, store, check=check, say=say).artifact
        make = partial(builder.build, source, weights, request, check=check, say=say, cache=None)

        def build(folder: Path) -> Built:
            built = make(folder)
            if held is not None:
                # Weights cannot be read back from an engine, but they can from its source.
                refuse_other_weights(held, weights)
            if request.conformance_kit:
                with working("making the conformance kit"):
                    write_kit(folder / KIT_NAME, weights)
            return built

        return publish(source, directory, build, request=request, check=check, force=force)


def rebuild(
    path: Path,
    output: Path | None = None,
    *,
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Make an artifact again from the request in its manifest.

    Args:
        path: its folder; only the manifest is read.
        output: folder to make; None replaces the artifact.
        check: as `export`.
        force: as `export`.
        say: as `export`.

    Raises:
        BadArtifact: there is no manifest, it stores no request, or the environment requires a
            signature that it lacks.
        BadWeights: the weights that it was made from have changed.
        ResnextError: as `export`.
    """
    manifest = read_manifest(path / MANIFEST_NAME)
    check_signed(path, manifest, {}, current_trust())
    if manifest.request is None:
        refitted = manifest.engine is not None and manifest.engine.refitted
        raise BadArtifact(
            f"the manifest of {path} stores no request to rebuild from",
            hint="refit the engine without weights again" if refitted else "export it again",
        )
    try:
        request = ExportRequest(**manifest.request)
    except UsageError as exc:
        raise BadArtifact(f"the request in the manifest of {path} is not valid: {exc}") from exc
    if request.weights is not None:
        commit = manifest.weights.revision
        request = replace(request, weights=pinned(request.weights, commit))
    return run(
        request,
        output or path,
        recorded=manifest,
        check=check,
        force=force or output is None,
        say=say,
    )
