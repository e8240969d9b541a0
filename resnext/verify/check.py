"""Check an artifact: run it, and compare its logits with a reference's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.foreign import open_artifact
from resnext.artifact.manifest import Manifest
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.errors import BadArtifact, BadInput, BadWeights, UnknownName, UsageError
from resnext.images.datasets import DATASETS
from resnext.images.preprocessing import Preprocessing
from resnext.images.sources import image_source
from resnext.images.synthetic import seeded_pixels
from resnext.precision import DEFAULT
from resnext.progress import working
from resnext.readers.files import exists
from resnext.runtimes import registry
from resnext.runtimes.pt2.package import check_package_bytes
from resnext.runtimes.registry import REFERENCE, open_session, runtime_named
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import Weights, load_weights

from .file_reference import ROWS_HINT, FileReference
from .held.artifact import check_graph, differences
from .inputs import Feed, frame_of
from .parity import Parity, gate_for
from .reference import Comparison, Reference

#: Runs one batch: images as the artifact takes them, to logits.
Run: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
#: What an artifact can be compared with: eager PyTorch, or the ONNX file itself.
ReferenceName: TypeAlias = Literal["torch", "torch-fp32", "onnx"]
#: Element type in which each reference is computed.
_REFERENCES: Mapping[str, str] = MappingProxyType(
    {"torch": "float64", "torch-fp32": "float32", "onnx": "float64"}
)


def artifact_weights(artifact: Artifact, spec: str | None = None) -> Weights:
    """As `recorded_weights`, but first the file is checked against its manifest.

    Raises:
        BadWeights: they cannot be found, or have another digest.
        BadArtifact: the file and its manifest do not agree, so the manifest's word on weights is
            worth nothing.
    """
    check_bytes(artifact)
    check_graph(artifact)
    return recorded_weights(artifact, spec)


def recorded_weights(artifact: Artifact, spec: str | None = None) -> Weights:
    """The weights that an artifact was made from, loaded again and compared with the manifest's
    digest; what they do not say themselves is the manifest's (`as_recorded`).

    Args:
        artifact: its manifest is trusted.
        spec: where they are now; None means where the manifest says.

    Raises:
        BadWeights: they cannot be found, or have another digest.
    """
    record = artifact.manifest.weights
    source = spec or pinned(record.source, record.revision)
    try:
        weights = load_weights(source, artifact.manifest.network, key=record.key)
    except BadWeights as exc:
        if spec is not None:
            raise
        raise BadWeights(str(exc), hint="if the checkpoint moved, name it in `weights`") from exc
    if weights.sha256 != record.sha256:
        raise BadWeights(
            f"weights {source} are not those that {artifact.path} was made from"
            f" (sha256 {weights.sha256[:12]}, manifest {record.sha256[:12]})",
            hint="name the right ones in `weights`",
        )
    return as_recorded(weights, artifact.manifest)


def as_recorded(weights: Weights, manifest: Manifest) -> Weights:
    """``weights`` with what ``manifest`` says of them and they do not say themselves: the
    preprocessing, if it was requested or assumed, and then the class names, if they have none.

    Raises:
        BadArtifact: that preprocessing is not for this network.
    """
    if manifest.preprocessing_source not in ("requested", "assumed"):
        return weights
    recorded, config = manifest.prepared, weights.config
    if recorded.crop != config.input_size or len(recorded.mean) != config.in_channels:
        raise BadArtifact(
            f"the manifest has a preprocessing to {len(recorded.mean)} x {recorded.crop[0]} x"
            f" {recorded.crop[1]}, and a network that takes {config.in_channels} x"
            f" {config.input_size[0]} x {config.input_size[1]}; export the artifact again"
        )
    return replace(
        weights,
        preprocessing=recorded,
        preprocessing_source=manifest.preprocessing_source,
        class_names=weights.class_names or manifest.class_names,
    )


def recorded_original(artifact: Artifact, path: str | None = None) -> Artifact:
    """The ONNX file from elsewhere that an artifact was made from.

    Args:
        artifact: its manifest is trusted.
        path: where the file is now; None means where the manifest says.

    Raises:
        UsageError: the artifact was not made from one.
        BadWeights: the file is not there, or has other weights.
    """
    manifest, record = artifact.manifest, artifact.manifest.weights
    if not manifest.foreign:
        raise UsageError(
            f"{artifact.path} is of kind {manifest.kind}, and only an ONNX file can be computed"
            " node by node",
            hint="compare it with PyTorch: `reference` torch",
        )
    if artifact.manifest.kind == "onnx":
        return artifact
    source = Path(path or record.source)
    if not exists(source):
        raise BadWeights(
            f"no ONNX file at {source}, which {artifact.path} was made from",
            hint="if it moved, name it in `weights`",
        )
    try:
        original = open_artifact(source)
    except UsageError:  # it leaves its size open
        frame = frame_of(manifest)
        original = open_artifact(source, input_size=frame.input_size)
    if original.manifest.weights.sha256 != record.sha256:
        raise BadWeights(
            f"{source} is not the ONNX file that {artifact.path} was made from (sha256 of its"
            f" weights {original.manifest.weights.sha256[:12]}, manifest {record.sha256[:12]})",
            hint="name the right one in `weights`",
        )
    return original


def batched(run: Run, inputs: NDArray[Any], batch: int) -> NDArray[Any]:
    """Logits of all ``inputs``, ``batch`` at a time; their number must be a multiple of that."""
    return np.concatenate([run(inputs[at : at + batch]) for at in range(0, len(inputs), batch)])


def whole(count: int, batch: int) -> NDArray[np.intp]:
    """Indices of ``count`` rows in whole batches; the last is filled with the first rows again."""
    return np.arange(-(-count // batch) * batch) % count


def logits_dtype(artifact: Artifact, runtime: str) -> str:
    """Element type of the logits that ``artifact`` gives on ``runtime``."""
    return "float32" if runtime == REFERENCE else artifact.manifest.outputs[0].dtype


def check(
    artifact: Artifact | Path | str,
    *,
    weights: Weights | str | None = None,
    runtime: str | None = None,
    batch: int | None = None,
    images: int = 28,
    seed: int = 0,
    reference: ReferenceName | None = None,
    images_from: str | None = None,
    gate: str = "default",
) -> Parity:
    """Run an artifact on images, and compare its logits with PyTorch's or the ONNX file's own.

    The bytes are those on disk. NaN, infinity, and a wrong shape, element type or order of rows
    always fail. Adversarial inputs (`resnext.images.adversarial`) are compared, too. A graph that
    is not the network's always fails, and so do stored weights that are not its own at the
    precision of the artifact. Neither can be known of an ONNX file from elsewhere.

    Args:
        artifact: what `resnext_export.export` returned, the path of its folder, or the path of an
            ONNX file from elsewhere.
        weights: what it was made from, loaded or by its SPEC (`load_weights`); None means what its
            manifest names.
        runtime: runs it; None means the artifact's natural one (`natural_runtime`).
        batch: images in one run; None means 7, which fits no vector width, or what the artifact
            takes.
        images: how many to compare in all; rounded up to whole batches, or what ``images_from``
            has if that is less.
        seed: of the images.
        reference: eager PyTorch in float64 (``torch``) or in float32 (``torch-fp32``), or the ONNX
            file itself in float64, node by node (``onnx``), which says nothing about the weights.
            None means ``torch``, and ``onnx`` for a file from elsewhere.
        images_from: ``digits``, ``fashion-mnist``, or a folder of pictures; None means seeded
            images.
        gate: ``strict``, ``default`` or ``loose`` (`resnext.precision.PRESETS`).

    Returns:
        The verdict, which holds for the file with its ``artifact_sha256``; ``passed`` sums it up.

    Raises:
        UsageError: the artifact does not take that batch, or the runtime not that artifact.
        BadArtifact: file and manifest do not agree, or the manifest declares other facts than the
            weights.
        BadWeights: the weights cannot be found, or are not those that the artifact was made from.
        BadInput: ``images_from`` is no folder, or has no usable picture.
        UnknownName: no such reference, or gate.
        GateFailed: the reference cannot tell images apart, so nothing could be proven.
        MissingRequirement: this machine lacks what the runtime or the data set needs.
        SessionFailed: the runtime failed.
    """
    if reference is not None and reference not in _REFERENCES:
        raise UnknownName("reference", reference, _REFERENCES)
    gate_for(DEFAULT, gate)  # refuses an unknown one now
    if images < 1 or seed < 0:
        raise UsageError(f"`images` must be at least 1 and `seed` at least 0, not {images}, {seed}")
    artifact = artifact if isinstance(artifact, Artifact) else open_artifact(Path(artifact))
    reference = chosen_reference(artifact, reference)
    check_bytes(artifact)
    loaded, graph = None, artifact
    if reference != "onnx":
        loaded = weights if isinstance(weights, Weights) else recorded_weights(artifact, weights)
    elif isinstance(weights, Weights) or (weights is not None and artifact.manifest.kind == "onnx"):
        raise UsageError("the file is its own reference, so `weights` have no effect")
    elif artifact.manifest.kind != "onnx":
        graph = recorded_original(artifact, weights)
    runtime = runtime or natural_runtime(artifact)
    manifest, dtype = artifact.manifest, _REFERENCES[reference]
    if loaded is not None and (
        loaded.preprocessing != manifest.preprocessing or loaded.class_names != manifest.class_names
    ):
        raise BadArtifact(
            f"the manifest of {artifact.path} declares another preprocessing or other class names"
            " than its weights; export the artifact again"
        )
    batch = _batch(artifact, batch)
    compared = comparison_for(graph, loaded, images, batch, seed, images_from)
    step = f"comparing {artifact.path.name} on {runtime} with {compared.title}"
    with working(step), open_session(artifact, runtime) as run:
        logits, adversarial = (
            batched(run, inputs[whole(len(inputs), batch)], batch)[: len(inputs)]
            for inputs in (compared.inputs(manifest), compared.adversarial_inputs(manifest))
        )
    with working(step):
        compared.refuse_if_useless(dtype, hint=ROWS_HINT if manifest.foreign else "")
        outcome = compared.parity(
            logits,
            manifest.numerics,
            artifact,
            dtype=logits_dtype(artifact, runtime),
            against=dtype,
            graph=artifact if _is_graph(artifact) and runtime != REFERENCE else None,
            adversarial=adversarial,
            gate=gate,
        )
        # What logits do not show: the graph, and each stored weight and scale.
        odd = []
        if loaded is None:
            check_graph(artifact)
        else:
            odd = differences(artifact, loaded)
    if odd:
        failures = (*outcome.failures, *odd)
        outcome = outcome.model_copy(update={"passed": False, "failures": failures})
    return outcome


def chosen_reference(artifact: Artifact, reference: ReferenceName | None) -> ReferenceName:
    """``reference``, or the one that says most about ``artifact``.

    Raises:
        UsageError: it cannot be compared with that.
    """
    foreign = artifact.manifest.foreign
    if foreign and reference not in (None, "onnx"):
        raise UsageError(
            f"{artifact.path} is an ONNX file from elsewhere, so that there is no PyTorch network"
            " to compare with",
            hint="compare it with itself: `reference` onnx",
        )
    return reference or ("onnx" if foreign else "torch")


def comparison_for(
    artifact: Artifact,
    weights: Weights | None,
    count: int,
    batch: int,
    seed: int,
    images_from: str | None,
) -> Comparison:
    """The images, and what they are compared with: ``weights``, or the file itself if None.

    Args:
        artifact: what is compared.
        weights: the network, or None.
        count: number of images.
        batch: images in one run; ``count`` is rounded up to whole ones.
        seed: of the images.
        images_from: as `check`.

    Raises:
        BadInput: there are no such images.
    """
    manifest = artifact.manifest
    if images_from is None:
        count = -(-max(count, batch) // batch) * batch
        if weights is None:
            return FileReference.seeded(artifact, count, seed)
        return Reference(weights, seeded_pixels(manifest.network, count, seed))
    if weights is not None:
        return Reference(weights, *_pictures(images_from, weights.preprocessing, count, seed))
    preprocessing = manifest.preprocessing or Feed.of(manifest.inputs[0]).assumed()
    pixels, name = _pictures(images_from, preprocessing, count, seed)
    return FileReference.of_pixels(artifact, pixels, name)


def _pictures(
    spec: str, preprocessing: Preprocessing, count: int, seed: int
) -> tuple[NDArray[np.uint8], str]:
    """At most ``count`` images of a source, and its name. Labels do not matter."""
    if spec not in DATASETS and not Path(spec).is_dir():
        raise BadInput(
            f"no folder at {spec}",
            hint=f"set `images_from` to {', '.join(DATASETS)}, or a folder of pictures",
        )
    load = partial(
        image_source,
        spec,
        preprocessing,
        split="test" if spec in DATASETS else "calibration",
        seed=seed,
    )
    source = load()
    if len(source) > count:
        source = load(limit=count)
    return source.pixels(0, len(source)), source.name


def natural_runtime(artifact: Artifact) -> str:
    """What `check` runs ``artifact`` on if nothing else is named: a runtime that is trusted with
    its precision, else the reference evaluator.
    """
    natural = "ort" if _is_graph(artifact) else registry.natural_runtime(artifact)
    return trusted_runtime(artifact, natural)


def trusted_runtime(artifact: Artifact, runtime: str) -> str:
    """``runtime``, or the reference evaluator for an ONNX file of a precision that ``runtime`` does
    not run.
    """
    able = artifact.manifest.precision in runtime_named(runtime).precisions
    return runtime if able or not _is_graph(artifact) else REFERENCE


def _is_graph(artifact: Artifact) -> bool:
    """Whether the reference evaluator can compute it node by node."""
    return artifact.manifest.kind in runtime_named(REFERENCE).formats


def check_bytes(artifact: Artifact) -> None:
    """Check that the file's bytes say what the manifest says."""
    check_package_bytes(artifact)
    check_onnx_precision(artifact)


def _batch(artifact: Artifact, batch: int | None) -> int:
    sizes = artifact.manifest.batch
    if batch is None:
        batch = sizes.min if sizes.static else max(7, sizes.min)
        batch = min(batch, sizes.max or batch)
        batch = batch if artifact.manifest.takes(batch) else sizes.min
    if not artifact.manifest.takes(batch):
        raise UsageError(f"{artifact.path} takes batch {artifact.manifest.batches()}, not {batch}")
    frame = frame_of(artifact.manifest)
    image = 4 * frame.in_channels * frame.input_size[0] * frame.input_size[1]
    if batch * image > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        raise UsageError(
            f"a `batch` of {batch} images takes {batch * image / 1e9:.0f} GB, more than half of"
            " this machine's memory"
        )
    return batch
