"""From a request to a published artifact: the front door, and the one way through the formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from resnext.artifact.files import (
    COMPANIONS,
    KIT_NAME,
    SEARCH_NAMES,
    Artifact,
    check_destination,
    read_artifact,
)
from resnext.artifact.foreign import is_bare, layout_of, open_artifact
from resnext.artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.artifact.trust import check_signed, current_trust
from resnext.errors import BadArtifact, BadWeights, UsageError
from resnext.images.requested import PreprocessingOptions
from resnext.precision import DEFAULT
from resnext.progress import working
from resnext.readers.files import exists, is_file
from resnext.runtimes.ort.needed import check_taken_here
from resnext.runtimes.pytorch.release import refuse_older_torch
from resnext.storage import scratch_folder
from resnext.verify.check import as_recorded, recorded_weights
from resnext.verify.conformance import write_kit
from resnext.verify.held.artifact import refuse_other_weights
from resnext.verify.inputs import Feed
from resnext.verify.subject import Network, weights_of
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import Weights, load_weights, preprocessed

from .formats.base import builder_for
from .publish import Built, publish
from .registry import FORMATS
from .request import PREPROCESSING, ExportRequest
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
            artifact to start from (`Artifact`, the path of its folder, or that of an ONNX file from
            elsewhere).
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
    elif is_file(Path(source) / "manifest.json") or Path(source).suffix == ".onnx":
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
    start = _start(request)
    if start is not None and start.manifest.kind != FORMATS[request.format].source:
        raise UsageError(
            f"`format` {request.format} is made from an ONNX artifact; {start.directory} is of kind"
            f" {start.manifest.kind}"
        )
    held: Artifact | None = None
    network: Network
    if start is not None and start.manifest.foreign:
        _check_foreign(request, start)
        network = start
    elif weights is not None:
        network = weights
    elif start is not None:
        check_onnx_precision(start)
        network = recorded_weights(start, request.weights)
        held = start if check else None
    else:
        refuse_older_torch()
        with working("loading weights"):
            network = load_weights(
                request.weights,
                request.model,
                num_classes=request.num_classes,
                input_size=request.pixels(),
                key=request.weights_key,
            )
        for line in network.notes:
            say(line)
    if start is None:
        network = preprocessed(weights_of(network), request.preprocessing())
    if recorded is not None:
        source_name, sha256 = _identity(network)
        if sha256 != (digest := recorded.weights.sha256):
            raise BadWeights(
                f"{source_name} has other weights than the artifact was made from (sha256"
                f" {sha256[:12]}, manifest {digest[:12]})",
                hint="restore them, or export the new ones",
            )
        if isinstance(network, Weights):
            network = as_recorded(network, recorded)
    if start is None and request.numerics.calibrated:
        request.images(weights_of(network))  # refuses now what would fail after the first step
    if request.keep_fp32 is not None:
        request.kept(weights_of(network).config)
    *before, _ = request.steps(start.manifest.precision if start else None)
    precision = request.precision or (start.manifest.precision if start else DEFAULT)
    directory = output or request.folder(network, precision, kind)
    proofs = sorted(COMPANIONS - {KIT_NAME, *SEARCH_NAMES})
    if dropped := [name for name in proofs if exists(directory / name)]:
        say(f"replacing {directory} drops its {', '.join(dropped)}: judge and sign it again")
    source = start or network
    with scratch_folder() as scratch:
        store = None if check else scratch  # what is not checked is not kept
        for step in before:
            source = build_step(step, network, source, store, check=check, say=say).artifact
        make = partial(builder.build, source, network, request, check=check, say=say, cache=None)

        def build(folder: Path) -> Built:
            built = make(folder)
            if held is not None:
                # Weights cannot be read back from an engine, but they can from its source.
                refuse_other_weights(held, weights_of(network))
            if request.conformance_kit:
                with working("making the conformance kit"):
                    write_kit(folder / KIT_NAME, weights_of(network))
            return built

        return publish(source, directory, build, request=request, check=check, force=force)


def _start(request: ExportRequest) -> Artifact | None:
    """The ONNX artifact that ``request`` names, or the file from elsewhere."""
    if request.onnx is None:
        return None
    if FORMATS[request.format].is_source and not (request.derives or is_bare(request.onnx)):
        raise UsageError(
            "`onnx` is what to start from: it takes another `format`, a `precision` or"
            " `merge_groups`"
        )
    if is_bare(request.onnx):
        bare = open_artifact(request.onnx, input_size=request.pixels())
        return prepared(bare, request.preprocessing())
    for name in ("input_size", *PREPROCESSING):
        if getattr(request, name) is not None:
            raise UsageError(f"the ONNX artifact has its own {name.replace('_', '-')}; drop it")
    return read_artifact(request.onnx)


def prepared(bare: Artifact, requested: PreprocessingOptions | None) -> Artifact:
    """A bare ONNX file with the preprocessing that a user requests; without, nobody says any.

    Raises:
        UsageError: mean or standard deviation is missing, or the input is not N x C x H x W of
            floats, in the colors of a picture.
    """
    if not requested:
        return bare
    spec = bare.manifest.inputs[0]
    if requested.mean is None or requested.std is None:
        raise UsageError(f"nobody says what {bare.path} takes, so it needs both `mean` and `std`")
    if layout_of(spec.shape) != "nchw" or spec.dtype == "uint8" or spec.shape[1] not in (1, 3):
        raise UsageError(
            f"the input of {bare.path} is not N x C x H x W of floats with 1 or 3 channels, which"
            " `mean` and `std` are for"
        )
    preprocessing = requested.applied(Feed.of(spec).assumed())
    known = {"preprocessing": preprocessing, "preprocessing_source": "requested"}
    return replace(bare, manifest=bare.manifest.model_copy(update=known))


def _check_foreign(request: ExportRequest, start: Artifact) -> None:
    """Refuse what can be done only with a network of ours."""
    if request.weights is not None:
        raise UsageError(f"{start.path} has its own weights; drop `weights`")
    if request.precision not in (None, start.manifest.precision):
        raise UsageError(
            f"`precision` {request.precision} cannot be made of {start.path}: passes are proven on"
            " graphs that this toolkit exports; convert it with the tool that it comes from"
        )
    if request.merge_groups is not None:
        raise UsageError(
            f"`merge_groups` cannot be proven on {start.path}, which is no export of this toolkit"
        )


def _refuse_moved(requested: Path, source: Path) -> None:
    """Refuse to rebuild without the checkpoint, whose path in a request may be relative."""
    if source.is_absolute() and not exists(requested):
        raise BadWeights(
            f"no weights file at {requested.absolute()}; the artifact was made from {source}",
            hint="put the checkpoint back, or export again with its new path in `weights`",
        )


def _identity(network: Network) -> tuple[str, str]:
    """Where the weights come from, and their digest."""
    if isinstance(network, Artifact):
        return network.manifest.weights.source, network.manifest.weights.sha256
    return network.source, network.sha256


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
        BadWeights: the weights that it was made from have moved or changed.
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
        spec = pinned(request.weights, manifest.weights.revision)
        _refuse_moved(Path(spec), Path(manifest.weights.source))
        request = replace(request, weights=spec)
    return run(
        request,
        output or path,
        recorded=manifest,
        check=check,
        force=force or output is None,
        say=say,
    )
