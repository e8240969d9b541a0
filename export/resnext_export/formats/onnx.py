"""The whole way from weights to a proven ONNX artifact: convert, check, write, read back, compare,
seal.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact, check_destination, file_sha256, seal, staging
from resnext.artifact.manifest import BatchRange, CheckRecord, Manifest, WeightsRecord
from resnext.errors import BadArtifact, GateFailed
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import variant_name
from resnext.precision import NUMERICS, Precision
from resnext.progress import working
from resnext.runtimes import onnx_reference
from resnext.runtimes.buffers import torch_dtype
from resnext.runtimes.pytorch.release import refuse_older_torch
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Session, TensorSpec
from resnext.verify.parity import compare, discriminates, gate_for
from resnext.version import __version__
from resnext.weights.spec import Weights

if TYPE_CHECKING:
    import onnx

FILE_NAME = "model.onnx"
#: Batch sizes at which the written bytes must agree with PyTorch; 7 fits no vector width, so
#: padding faults show.
CHECK_BATCHES = (1, 7)
#: Different images at most; a larger batch repeats them. A prime, so that rows that are shifted by
#: any usual size show.
DIFFERENT = 13


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

    Another precision than float32 is made of the float32 export, as `derive_onnx` does, and its
    manifest names that.

    Args:
        weights: what to export.
        directory: folder to make; ``model.onnx`` and ``manifest.json`` appear in it together.
        batch: batch sizes to take; None means any.
        bake_preprocessing: take uint8 N x H x W x C pixels and normalise inside the graph.
        precision: of weights and activations; input and output stay float32 (or uint8). int8 and
            fp8 are for weights that come with images; `derive_onnx` takes others.
        check: compare the written bytes with eager PyTorch; off, the manifest says that nothing was
            compared.
        force: replace an artifact that is already there.

    Raises:
        GateFailed: the graph is not as asked, or the written bytes do not agree with PyTorch.
            Nothing is written.
        UsageError: ``directory`` is taken.
        MissingRequirement: PyTorch is too old, or the disk is full or not writable.
    """
    refuse_older_torch()
    from resnext_export.convert.onnx_from_torch import onnx_from_torch

    batch = batch or BatchRange(min=1, opt=8, max=None)
    check_destination(directory, force=force)
    if precision != "fp32":
        from resnext_export.recipe import Recipe

        from .derived import derive_onnx

        with TemporaryDirectory(prefix="resnext-") as scratch:
            parent = export_onnx(
                weights,
                Path(scratch) / "fp32",
                batch=batch,
                bake_preprocessing=bake_preprocessing,
                check=False,
            )
            return derive_onnx(
                parent, weights, directory, Recipe(precision), check=check, force=force
            )
    with working("exporting to ONNX"):
        proto = onnx_from_torch(weights, batch, bake_preprocessing=bake_preprocessing)
    # PyTorch computes the reference on another thread while the file is written, checked and
    # hashed.
    with staging(directory, force=force) as folder, ThreadPoolExecutor(max_workers=1) as pool:
        expected = pool.submit(expect, weights, batch, precision) if check else None
        manifest = _write(proto, folder, weights, batch, baked=bake_preprocessing)
        if expected is not None:
            with working("comparing the written file with PyTorch"):
                record = prove(Artifact(folder, manifest), expected.result())
            manifest = manifest.model_copy(update={"check": record})
        seal(folder, manifest)
    return Artifact(directory, manifest)


@dataclass(frozen=True)
class Expected:
    """What PyTorch gives for the images of the check.

    Attributes:
        batches: batch sizes to compare at.
        pixels: N x H x W x C, uint8; a larger batch repeats them.
        images: the same, preprocessed, N x C x H x W.
        reference: logits, N x classes, eager float32.
        baseline: logits of eager PyTorch at the artifact's precision; None for fp32, where it is
            the reference, and for quantized networks, which PyTorch does not run.
    """

    batches: tuple[int, ...]
    pixels: NDArray[np.uint8]
    images: NDArray[np.float32]
    reference: NDArray[Any]
    baseline: NDArray[Any] | None


def expect(
    weights: Weights,
    batch: BatchRange,
    numerics: str,
    batches: tuple[int, ...] | None = None,
    parent: Artifact | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> Expected:
    """Run eager PyTorch on seeded images, or on the ones given.

    The reference is float32, a third of float64's time; the gate is far above what float32 loses,
    and ``resnext-parity`` compares with float64.

    Args:
        weights: the network.
        batch: sizes that the artifact takes.
        numerics: what to compare at, as `Manifest.numerics` has it.
        batches: sizes to compare at; None means both ends of ``batch``, as near to CHECK_BATCHES as
            it allows.
        parent: ONNX artifact of a quantized network, whose own loss is the baseline then.
        pixels: images to compare, N x H x W x C; None means seeded ones.

    Raises:
        GateFailed: the logits are not finite, or hardly differ from image to image, so nothing
            could be proven.
    """
    import torch

    from resnext.verify.reference import kept_reference_logits

    low, high = batch.min, batch.max
    batches = batches or tuple(
        sorted(
            {
                max(low, size) if high is None else min(max(low, size), high)
                for size in CHECK_BATCHES
            }
        )
    )
    # More images than the batch where that is small, so that one can tell whether the network tells
    # images apart.
    if not (given := pixels is not None):
        pixels = seeded_pixels(weights.config, min(max(*batches, *CHECK_BATCHES), DIFFERENT))
    images = weights.preprocessing.normalise(pixels)
    reference = kept_reference_logits(weights, images, torch.float32)
    if not np.isfinite(reference).all():
        raise GateFailed(
            "PyTorch itself gives NaN or infinite logits for these weights; --no-check exports them"
            " unproven"
        )
    if not discriminates(reference):
        if given:
            raise GateFailed(
                "the network gives nearly the same logits for every calibration image, so a"
                " comparison would prove nothing; are the images all alike? --no-check exports"
                " unproven"
            )
        raise GateFailed(
            "the network gives nearly the same logits for every test image, so a comparison would"
            " prove nothing; are the weights trained? --no-check exports them unproven"
        )
    # What PyTorch itself loses at a lower precision is the sharper yardstick; float32 loses next to
    # nothing.
    dtype = NUMERICS[numerics].eager_dtype
    baseline = (
        kept_reference_logits(weights, images, torch_dtype(dtype)).astype(np.float64)
        if dtype not in (None, "float32")
        else None
    )
    if parent is not None and parent.manifest.quantization is not None:
        inputs: NDArray[Any] = pixels if parent.manifest.preprocessing_baked else images
        baseline = onnx_reference.emulated_logits(parent, inputs).astype(np.float64)
    return Expected(batches, pixels, images, reference, baseline)


def prove(artifact: Artifact, expected: Expected, backend: str = "ort-cpu") -> CheckRecord:
    """Load the artifact's bytes from disk, run them on ``backend``, and compare with what eager
    PyTorch gives.

    An ONNX file of a precision that ONNX Runtime's CPU provider does not run is computed node by
    node.

    Raises:
        GateFailed: they do not agree; the message gives batch and reasons.
    """
    manifest = artifact.manifest
    gate = gate_for(manifest.numerics)
    worst, ratios = 0.0, []
    if manifest.kind == "onnx" and manifest.precision in onnx_reference.NEEDED:
        backend = onnx_reference.NAME
    with ExitStack() as stack:
        if backend == onnx_reference.NAME:
            run = partial(onnx_reference.emulated_logits, artifact)
        else:
            run = partial(
                _run, stack.enter_context(open_session(artifact, backend, options=SessionOptions()))
            )
        inputs: NDArray[Any] = expected.pixels if manifest.preprocessing_baked else expected.images
        for size in expected.batches:
            rows = np.arange(-(-len(inputs) // size) * size) % len(inputs)
            logits = np.concatenate([run(inputs[some]) for some in rows.reshape(-1, size)])
            outcome = compare(
                expected.reference[rows],
                logits,
                gate=gate,
                baseline=None if expected.baseline is None else expected.baseline[rows],
                artifact_sha256=manifest.file_sha256,
            )
            if not outcome.passed:
                raise GateFailed(
                    f"the exported file does not compute what PyTorch computes, batch {size}: "
                    f"{'; '.join(outcome.failures)}. Nothing was written"
                )
            assert outcome.max_error is not None
            worst = max(worst, outcome.max_error)
            ratios += [] if outcome.error_ratio is None else [outcome.error_ratio]
    return CheckRecord(
        batches=expected.batches,
        backend=backend,
        max_error=worst,
        tolerance=gate.max_error,
        error_ratio=max(ratios, default=None),
    )


def _run(session: Session, inputs: NDArray[Any]) -> NDArray[np.float32]:
    logits = session.run({session.inputs[0].name: session.inputs[0].given(inputs)})[
        session.outputs[0].name
    ]
    return logits.astype(np.float32, copy=False)


def _write(
    proto: onnx.ModelProto, folder: Path, weights: Weights, batch: BatchRange, *, baked: bool
) -> Manifest:
    config = weights.config
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    if baked:
        shape = (*config.input_size, config.in_channels)
    size = batch.min if batch.static else None
    name = variant_name(config)
    _describe(proto, weights, name, baked=baked)
    path = write_onnx(proto, folder)
    return Manifest(
        kind="onnx",
        file=FILE_NAME,
        file_sha256=file_sha256(path),
        file_size_bytes=path.stat().st_size,
        model=name,
        config=config,
        weights=WeightsRecord(source=weights.source, sha256=weights.sha256),
        precision="fp32",
        inputs=(
            TensorSpec(name="input", dtype="uint8" if baked else "float32", shape=(size, *shape)),
        ),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(size, config.num_classes)),),
        batch=batch,
        preprocessing=weights.preprocessing,
        preprocessing_baked=baked,
        class_names=weights.class_names,
        opset=proto.opset_import[0].version,
        versions=library_versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def write_onnx(proto: onnx.ModelProto, folder: Path) -> Path:
    """Write ``proto`` to ``folder``, and check what was written; the model's large weights are
    dropped from memory.

    Raises:
        BadArtifact: it is not valid ONNX.
        GateFailed: a tensor has no known shape.
    """
    path = folder / FILE_NAME
    path.write_bytes(proto.SerializeToString())
    _check_file(path)
    _check_shapes_known(proto)
    return path


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
    """ONNX's own full check with strict shape inference, on the bytes as written."""
    import onnx

    with _onnx_errors(path):
        # By path, ONNX reads the file itself and nothing is serialised again.
        onnx.checker.check_model(str(path), full_check=True)


def _check_shapes_known(proto: onnx.ModelProto) -> None:
    """Every tensor must have a shape by inference. Drops the weights from ``proto``, which has been
    written.
    """
    import onnx

    for tensor in proto.graph.initializer:
        if (
            len(tensor.raw_data) > 4096
        ):  # a weight's shape says all, and shape inference would copy its values twice
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    unknown = [name for node in inferred.graph.node for name in node.output if name not in known]
    if unknown:
        raise GateFailed(
            f"ONNX shape inference gives no shape for {len(unknown)} tensors, first {unknown[0]}"
        )


@contextmanager
def _onnx_errors(path: Path) -> Iterator[None]:
    import onnx

    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BadArtifact(f"{path.name} is not valid ONNX: {str(exc).splitlines()[0]}") from exc
