"""The whole way from weights to a proven ONNX artifact: convert, check, write, read back, compare, seal."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.artifact import Artifact, check_destination, file_sha256, seal, staging
from resnext.backends import SessionOptions, open_session
from resnext.config import Precision, variant_name
from resnext.errors import BadArtifact, GateFailed
from resnext.inputs import seeded_pixels
from resnext.manifest import BatchRange, CheckRecord, Manifest, WeightsRecord
from resnext.parity import compare, discriminates, gate_for
from resnext.progress import working
from resnext.session import TensorSpec
from resnext.version import __version__
from resnext.weights import Weights

if TYPE_CHECKING:
    import onnx

FILE_NAME = "model.onnx"
#: Batch sizes at which the written bytes must agree with PyTorch; 7 fits no vector width, so padding faults show.
CHECK_BATCHES = (1, 7)


def export_onnx(
    weights: Weights,
    directory: Path,
    *,
    batch: BatchRange | None = None,
    bake_preprocessing: bool = False,
    precision: Precision = "fp32",
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """Export ``weights`` to ``directory``, whole or not at all.

    Args:
        weights: what to export.
        directory: folder to make; ``model.onnx`` and ``manifest.json`` appear in it together.
        batch: batch sizes to take; None means any.
        bake_preprocessing: take uint8 N x H x W x C pixels and normalise inside the graph.
        precision: of weights and activations; input and output stay float32 (or uint8).
        check: compare the written bytes with eager PyTorch; off, the manifest says that nothing was compared.
        force: replace an artifact that is already there.

    Raises:
        GateFailed: the graph is not as asked, or the written bytes do not agree with PyTorch. Nothing is written.
        UsageError: ``directory`` is taken.
        MissingRequirement: the disk is full or not writable.
    """
    from .onnx_from_torch import onnx_from_torch

    batch = batch or BatchRange(min=1, opt=8, max=None)
    check_destination(directory, force=force)
    with working("exporting to ONNX"):
        proto = onnx_from_torch(weights, batch, bake_preprocessing=bake_preprocessing, precision=precision)
    with staging(directory, force=force) as folder:
        manifest = _write(proto, folder, weights, batch, precision, baked=bake_preprocessing)
        if check:
            with working("comparing the written file with PyTorch"):
                record = prove(Artifact(folder, manifest), weights)
            manifest = manifest.model_copy(update={"check": record})
        seal(folder, manifest)
    return Artifact(directory, manifest)


def prove(artifact: Artifact, weights: Weights) -> CheckRecord:
    """Load the artifact's bytes from disk, run them, and compare with eager PyTorch at each of `CHECK_BATCHES`.

    The reference is eager float32, a fifth of float64's time; the gate is far above what float32 loses, and
    ``resnext-parity`` compares with float64.

    Raises:
        GateFailed: they do not agree; the message gives batch and reasons.
    """
    import numpy as np
    import torch

    from resnext.backends.torch_session import DTYPES, reference_logits

    manifest = artifact.manifest
    gate = gate_for(manifest.precision)
    low, high = manifest.batch.min, manifest.batch.max
    # Both ends of the range, as near to CHECK_BATCHES as it allows.
    batches = tuple(sorted({max(low, size) if high is None else min(max(low, size), high) for size in CHECK_BATCHES}))
    # More images than the batch where that is small, so that one can tell whether the network tells images apart.
    pixels = seeded_pixels(weights.config, max(*batches, *CHECK_BATCHES))
    images = weights.preprocessing.normalise(pixels)
    reference = reference_logits(weights, images, torch.float32)
    # What PyTorch itself loses at that precision is the sharper yardstick; float32 loses next to nothing.
    loses = manifest.precision != "fp32"
    baseline = reference_logits(weights, images, DTYPES[manifest.precision]) if loses else None
    if not np.isfinite(reference).all():
        raise GateFailed(
            "PyTorch itself gives NaN or infinite logits for these weights; --no-check exports them unproven"
        )
    if not discriminates(reference):
        raise GateFailed(
            "the network gives nearly the same logits for every test image, so a comparison would prove nothing; "
            "are the weights trained? --no-check exports them unproven"
        )
    worst = 0.0
    with open_session("ort-cpu", artifact, SessionOptions()) as session:
        for size in batches:
            inputs = pixels if manifest.preprocessing_baked else images
            logits = session.run({manifest.inputs[0].name: inputs[:size]})[manifest.outputs[0].name]
            outcome = compare(
                reference[:size],
                logits,
                gate=gate,
                baseline=None if baseline is None else baseline[:size].astype(np.float64),
                artifact_sha256=manifest.file_sha256,
            )
            if not outcome.passed:
                raise GateFailed(
                    f"the exported file does not compute what PyTorch computes, batch {size}: "
                    f"{'; '.join(outcome.failures)}. Nothing was written"
                )
            assert outcome.max_error is not None
            worst = max(worst, outcome.max_error)
    return CheckRecord(batches=batches, backend="ort-cpu", max_error=worst, tolerance=gate.max_error)


def _write(
    proto: onnx.ModelProto, folder: Path, weights: Weights, batch: BatchRange, precision: Precision, *, baked: bool
) -> Manifest:
    config = weights.config
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    if baked:
        shape = (*config.input_size, config.in_channels)
    size = batch.min if batch.static else None
    name = variant_name(config)
    _describe(proto, weights, name, baked=baked)
    path = folder / FILE_NAME
    path.write_bytes(proto.SerializeToString(deterministic=True))
    _check_file(path)
    return Manifest(
        kind="onnx",
        file=FILE_NAME,
        file_sha256=file_sha256(path),
        file_size_bytes=path.stat().st_size,
        model=name,
        config=config,
        weights=WeightsRecord(source=weights.source, sha256=weights.sha256),
        precision=precision,
        inputs=(TensorSpec(name="input", dtype="uint8" if baked else "float32", shape=(size, *shape)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(size, config.num_classes)),),
        batch=batch,
        preprocessing=weights.preprocessing,
        preprocessing_baked=baked,
        class_names=weights.class_names,
        opset=proto.opset_import[0].version,
        versions=library_versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def library_versions() -> dict[str, str]:
    """Versions of the toolkit and of the libraries that make an ONNX artifact."""
    found = {"resnext-toolkit": __version__}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _describe(proto: onnx.ModelProto, weights: Weights, name: str | None, *, baked: bool) -> None:
    """Put what a consumer of the bare file needs into its metadata."""
    import json

    from onnx import helper

    facts = {
        "model": name or "custom",
        "weights": Path(weights.source).name,
        "weights_sha256": weights.sha256,
        "preprocessing": weights.preprocessing.model_dump_json(),
        "preprocessing_baked": json.dumps(baked),
        "class_names": json.dumps(list(weights.class_names)),
    }
    helper.set_model_props(proto, {f"resnext.{key}": value for key, value in facts.items()})


def _check_file(path: Path) -> None:
    """ONNX's own full check with strict shape inference, on the bytes as written; then: is every shape known?"""
    import onnx

    with _onnx_errors(path):
        # By path, ONNX reads the file itself and nothing is serialised again.
        onnx.checker.check_model(str(path), full_check=True)
        light = onnx.load(path)
        for tensor in light.graph.initializer:
            if len(tensor.raw_data) > 4096:  # weights: their shape says all, and shape inference would copy them twice
                tensor.ClearField("raw_data")
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    unknown = [name for node in inferred.graph.node for name in node.output if name not in known]
    if unknown:
        raise GateFailed(f"ONNX shape inference gives no shape for {len(unknown)} tensors, first {unknown[0]}")


@contextmanager
def _onnx_errors(path: Path) -> Iterator[None]:
    import onnx

    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BadArtifact(f"{path.name} is not valid ONNX: {str(exc).splitlines()[0]}") from exc
