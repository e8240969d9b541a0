"""Check an artifact: run it, and compare its logits with PyTorch's."""

from __future__ import annotations

import numpy as np
import torch

from resnext.artifact.files import Artifact
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.errors import BadArtifact, BadWeights, GateFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import NUMERICS
from resnext.runtimes.buffers import torch_dtype
from resnext.runtimes.onnx_reference import emulated_logits
from resnext.runtimes.pt2.package import check_package_bytes
from resnext.runtimes.registry import open_session
from resnext.verify.parity import Parity, compare, discriminates, gate_of
from resnext.verify.reference import kept_reference_logits
from resnext.weights.spec import Weights, load_weights

#: The reference evaluator, among the names of runtimes.
NODE_BY_NODE = "node-by-node"


def artifact_weights(artifact: Artifact, spec: str | None = None) -> Weights:
    """The weights that an artifact was made from, loaded again and held against the manifest's
    digest.

    Raises:
        BadWeights: they cannot be found, or are not those.
        BadArtifact: the file and its manifest do not agree, so the manifest's word on weights is
            worth nothing.
    """

    check_package_bytes(artifact)
    check_onnx_precision(artifact)
    record = artifact.manifest.weights
    try:
        weights = load_weights(spec or record.source, artifact.manifest.config)
    except BadWeights as exc:
        if spec is not None:
            raise
        raise BadWeights(f"{exc}. If the checkpoint moved, name it with --weights") from exc
    if weights.sha256 != record.sha256:
        raise BadWeights(
            f"weights {spec or record.source} are not those that {artifact.path} was made from"
            f" (sha256 {weights.sha256[:12]}, manifest {record.sha256[:12]}); name the right ones"
            " with --weights"
        )
    return weights


def check_artifact(
    artifact: Artifact,
    weights: Weights,
    backend_name: str,
    against: str,
    batch: int | None,
    images: int,
    seed: int,
) -> Parity:
    """Run ``images`` seeded images through the artifact and through PyTorch, and compare.

    Raises:
        UsageError: the artifact does not take that batch.
        GateFailed: the reference cannot tell images apart, so nothing could be proven.
    """
    manifest = artifact.manifest
    if (
        weights.preprocessing != manifest.preprocessing
        or weights.class_names != manifest.class_names
    ):
        raise BadArtifact(
            f"the manifest of {artifact.path} declares another preprocessing or other class names"
            " than its weights; export the artifact again"
        )
    if batch is None:
        batch = manifest.batch.min if manifest.batch.static else max(7, manifest.batch.min)
        batch = min(batch, manifest.batch.max or batch)
        batch = batch if manifest.takes(batch) else manifest.batch.min
    if not manifest.takes(batch):
        raise UsageError(f"{artifact.path} takes batch {manifest.batches()}, not {batch}")
    images = -(-max(images, batch) // batch) * batch
    pixels = seeded_pixels(manifest.config, images, seed)
    prepared = weights.preprocessing.normalise(pixels)
    inputs = pixels if manifest.preprocessing_baked else prepared
    given, dtype = manifest.inputs[0].given(inputs), manifest.outputs[0].dtype
    if backend_name == NODE_BY_NODE:
        parts, dtype = [emulated_logits(artifact, inputs)], "float32"
    else:
        with open_session(artifact, backend_name) as session:
            name, out = manifest.inputs[0].name, manifest.outputs[0].name
            parts = [
                session.run({name: given[at : at + batch]})[out] for at in range(0, images, batch)
            ]
    eager = kept_reference_logits(weights, prepared, torch.float32)
    reference = (
        kept_reference_logits(weights, prepared, torch.float64) if against == "torch" else eager
    )
    if not np.isfinite(reference).all():
        raise GateFailed(
            "PyTorch itself gives NaN or infinite logits for these weights; a comparison proves"
            " nothing"
        )
    if not discriminates(reference):
        raise GateFailed(
            "the reference gives nearly the same logits for every image; a comparison proves"
            " nothing"
        )
    baseline = None
    if (eager_dtype := NUMERICS[manifest.numerics].eager_dtype) is not None:
        if eager_dtype != "float32":
            eager = kept_reference_logits(weights, prepared, torch_dtype(eager_dtype))
        baseline = eager.astype(np.float64) if against == "torch" else None
    elif manifest.kind == "onnx" and backend_name != NODE_BY_NODE:
        baseline = emulated_logits(artifact, inputs).astype(np.float64)
    return compare(
        reference,
        np.concatenate(parts),
        gate=gate_of(manifest),
        baseline=baseline,
        dtype=dtype,
        artifact_sha256=manifest.file_sha256,
    )
