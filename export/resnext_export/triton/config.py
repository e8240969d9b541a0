"""The configuration of an artifact's model, as Triton reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest, manifest_sha256
from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.errors import UsageError
from resnext.machine.threads import thread_budget
from resnext.version import __version__

from .backends import BACKENDS, TYPES, WITHOUT, Backend
from .options import RepositoryOptions
from .pbtxt import Word, to_text

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
#: Folder of the samples that the server runs before it is ready; the name is Triton's.
WARMUP_NAME = "warmup"
#: The version folder, which is the artifact.
VERSION = 1
#: Largest batch of an artifact without a limit: also that of an engine by default.
LARGEST = 64
#: Begins each configuration of ours.
HEADER = "# Written by resnext-toolkit "
#: Begins the names of our parameters in a configuration.
PREFIX = "resnext."


def backend_of(manifest: Manifest) -> Backend:
    """Triton's backend for an artifact.

    Raises:
        UsageError: there is none.
    """
    if manifest.kind in WITHOUT:
        raise UsageError(
            f"{manifest.file} is of kind {manifest.kind}: {WITHOUT[manifest.kind]}",
            hint=f"use `kind` {', '.join(BACKENDS)}",
        )
    return BACKENDS[manifest.kind]


def largest_batch(manifest: Manifest, requested: int | None = None) -> int:
    """``max_batch_size``: 0 if the model takes one size only, or its backend cannot batch.

    Raises:
        UsageError: ``requested`` is more than the artifact takes, or the artifact refuses some
            batch that a server may form.
    """
    ranges = sorted(manifest.batch_ranges, key=lambda covered: covered.min)
    fixed = len(ranges) == 1 and ranges[0].static
    if fixed or not backend_of(manifest).batches:
        if requested is not None:
            why = f"takes batch {manifest.batches()} only" if fixed else "is not batched by Triton"
            raise UsageError(f"{manifest.file} {why}; drop `max_batch`")
        return 0
    limit = covered_from_one(tuple(ranges))
    if limit == 0 or (limit is not None and limit < max(each.max or limit for each in ranges)):
        raise UsageError(
            f"{manifest.file} takes batches {manifest.batches()}, and a server forms any from 1 on",
            hint="export it with `batch` ranges that begin at 1 and leave no gap",
        )
    if requested is not None and limit is not None and requested > limit:
        raise UsageError(f"`max_batch` {requested} is more than {manifest.file} takes: {limit}")
    return requested or limit or LARGEST


def covered_from_one(ranges: tuple[BatchRange, ...]) -> int | None:
    """The largest batch up to which ``ranges`` leave no gap; 0 if they do not begin at 1, None
    without a limit.
    """
    limit = 0
    for covered in sorted(ranges, key=lambda each: each.min):
        if covered.min > limit + 1:
            break
        if covered.max is None:
            return None
        limit = max(limit, covered.max)
    return limit


def network_config(artifact: Artifact, name: str, options: RepositoryOptions) -> dict[str, Any]:
    """The configuration of the network itself, without its warm-up.

    Args:
        artifact: what is served.
        name: of the model, and of its folder.
        options: of the repository.

    Raises:
        UsageError: as `backend_of` and `largest_batch`.
    """
    manifest = artifact.manifest
    backend = backend_of(manifest)
    largest = largest_batch(manifest, options.max_batch)
    output = tensor(manifest.outputs[0], largest)
    # Of a request that it does not batch, the server classifies all images as one.
    if manifest.class_names and (largest or output["dims"][0] in (-1, 1)):
        output["label_filename"] = LABELS_NAME
    config: dict[str, Any] = {
        "name": name,
        "backend": backend.name,
        "default_model_filename": file_of(manifest),
        "max_batch_size": largest,
        "version_policy": {"specific": {"versions": [VERSION]}},
        "input": [tensor(manifest.inputs[0], largest)],
        "output": [output],
        "instance_group": [_instances(manifest, backend)],
    }
    if largest > 1:
        config["dynamic_batching"] = _batching(manifest, largest, options.queue_delay or 0)
    elif options.queue_delay is not None:
        raise UsageError(f"{manifest.file} is not batched by Triton; drop `queue_delay`")
    threads = options.cpus or thread_budget().count
    config["parameters"] = [
        {"key": key, "value": {"string_value": value}}
        for key, value in {**_runtime(backend, threads), **_provenance(artifact)}.items()
    ]
    return config


def file_of(manifest: Manifest) -> str:
    """The file that the backend loads: the artifact's, or what is unpacked beside it."""
    return BACKENDS["openvino"].file if manifest.kind == "openvino" else manifest.file


def tensor(spec: TensorSpec, largest: int) -> dict[str, Any]:
    """An input or output; without its batch if ``largest`` is not 0."""
    sizes = [-1 if size is None else size for size in spec.shape]
    return {
        "name": spec.name,
        "data_type": Word(TYPES[spec.dtype]),
        "dims": sizes[1:] if largest else sizes,
    }


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a model into its folder."""
    text = f"{HEADER}{__version__}\n{to_text(config)}"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def _instances(manifest: Manifest, backend: Backend) -> dict[str, Any]:
    """One instance, which has all threads: what was measured as a session."""
    on_gpu = backend.gpu or (
        backend.gpu is None and manifest.check is not None and "cuda" in manifest.check.backend
    )
    group: dict[str, Any] = {"count": 1, "kind": Word("KIND_GPU" if on_gpu else "KIND_CPU")}
    if manifest.engine is not None and len(manifest.batch_ranges) > 1:
        # By default the server uses the first one only.
        group["profile"] = [str(index) for index in range(len(manifest.batch_ranges))]
    return group


def _batching(manifest: Manifest, largest: int, delay_us: int) -> dict[str, Any]:
    batching: dict[str, Any] = {"max_queue_delay_microseconds": delay_us}
    tuned = sorted({each.opt for each in manifest.batch_ranges if each.opt <= largest})
    if manifest.engine is not None and len(manifest.batch_ranges) > 1:
        batching["preferred_batch_size"] = tuned
    return batching


def _runtime(backend: Backend, threads: int) -> dict[str, str]:
    """What tells the backend its threads."""
    if backend.name == "onnxruntime":
        return {"intra_op_thread_count": str(threads)}
    if backend.name == "openvino":
        return {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
    return {}


def _provenance(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    facts = {
        "file_sha256": manifest.file_sha256,
        "manifest_sha256": manifest_sha256(artifact.directory, manifest),
        "model": manifest.model or "not known",
        "precision": manifest.precision,
        "toolkit": __version__,
        "preprocessing": (
            "not known"
            if manifest.preprocessing is None
            else manifest.preprocessing.model_dump_json()
        ),
    }
    return {PREFIX + key: value for key, value in facts.items()}
