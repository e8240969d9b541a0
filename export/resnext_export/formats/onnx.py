"""The whole way from weights to a proven ONNX artifact: convert, check, write, read back, compare,
seal.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from resnext.artifact.files import Artifact, check_destination
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import BatchRange, CheckRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, GateFailed, first_line
from resnext.network.config import variant_name
from resnext.precision import Precision
from resnext.progress import working
from resnext.runtimes.pytorch.release import refuse_older_torch
from resnext.weights.spec import Weights
from resnext_export import proof
from resnext_export.publish import Built, library_versions, publish

if TYPE_CHECKING:
    import onnx

FILE_NAME = "model.onnx"


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
    # PyTorch computes the reference on another thread while the file is written, checked and
    # hashed.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return publish(
            weights,
            directory,
            partial(_build, weights, batch, pool if check else None, baked=bake_preprocessing),
            check=check,
            force=force,
        )


def _build(
    weights: Weights,
    batch: BatchRange,
    pool: ThreadPoolExecutor | None,
    folder: Path,
    *,
    baked: bool,
) -> Built:
    from resnext_export.convert.onnx_from_torch import onnx_from_torch

    with working("exporting to ONNX"):
        proto = onnx_from_torch(weights, batch, bake_preprocessing=baked)
    expected = pool.submit(proof.expect, weights, batch, "fp32") if pool is not None else None
    config = weights.config
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    if baked:
        shape = (*config.input_size, config.in_channels)
    size = batch.min if batch.static else None
    _describe(proto, weights, baked=baked)
    write_onnx(proto, folder)

    def proven(artifact: Artifact) -> CheckRecord:
        assert expected is not None  # only asked for with a check
        return proof.prove(artifact, expected.result())

    facts = {
        "kind": "onnx",
        "precision": "fp32",
        "inputs": (
            TensorSpec(name="input", dtype="uint8" if baked else "float32", shape=(size, *shape)),
        ),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=(size, config.num_classes)),),
        "batch": batch,
        "preprocessing_baked": baked,
        "opset": proto.opset_import[0].version,
    }
    return Built(FILE_NAME, facts, library_versions(), proven)


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


def _describe(proto: onnx.ModelProto, weights: Weights, *, baked: bool) -> None:
    """Put what a consumer of the bare file needs into its metadata."""
    from onnx import helper

    facts = {
        "resnext.model": variant_name(weights.config) or "custom",
        "resnext.weights": Path(weights.source).name,
        **file_facts(
            weights_sha256=weights.sha256,
            preprocessing=weights.preprocessing,
            preprocessing_baked=baked,
            class_names=weights.class_names,
        ),
    }
    helper.set_model_props(proto, facts)


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
        raise BadArtifact(f"{path.name} is not valid ONNX: {first_line(exc)}") from exc
