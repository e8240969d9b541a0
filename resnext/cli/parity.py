"""The command ``resnext-parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.precision import NUMERICS
from resnext.runtimes.buffers import torch_dtype
from resnext.version import __version__

from .app import (
    ARTIFACT_BACKENDS,
    SETTINGS,
    NameType,
    OneLineCommand,
    check_writable,
    guarded,
    json_option,
    write_text,
)

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.verify.parity import Parity
    from resnext.weights.spec import Weights

#: What ``--backend`` takes beside the runtimes.
NODE_BY_NODE = "node-by-node"

_EPILOG = """\b
Examples:
  resnext-parity --artifact resnext50_32x4d-seeded-fp32-onnx --backend ort
  resnext-parity --artifact out/ --backend ort-cuda --batch 64 --json parity.json
  resnext-parity --artifact engine/ --backend trt
  resnext-parity --artifact out/ --backend ort --weights moved/checkpoint.pth
  resnext-parity --artifact fp8/ --backend node-by-node  no runtime here runs fp8
Exit code 0: the same function. 1: outside the gate. 4: the artifact is broken.
"""


@click.command(cls=OneLineCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.option(
    "--artifact",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Folder that resnext-export wrote, or the file in it.",
)
@click.option(
    "--backend",
    "backend_name",
    type=NameType("backend", (*ARTIFACT_BACKENDS, NODE_BY_NODE)),
    metavar="NAME",
    help=(
        f"Runtime that runs the artifact: {', '.join(ARTIFACT_BACKENDS)}; or {NODE_BY_NODE}, which"
        " computes an ONNX file of any precision as ONNX defines it, without a GPU.  [default:"
        f" ort, or the artifact's own; for bf16 and fp8 {NODE_BY_NODE}]"
    ),
)
@click.option(
    "--against",
    type=click.Choice(["torch", "torch-fp32"]),
    default="torch",
    show_default=True,
    help="Reference: eager PyTorch in float64, or in float32.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=None,
    help="Images in one call.  [default: 7, or the artifact's own fixed batch]",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=28,
    show_default=True,
    help="Images to compare in all.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which test images."
)
@click.option(
    "--weights",
    "spec",
    metavar="SPEC",
    help="Weights that the artifact was made from, where they moved.",
)
@json_option("Write the result as JSON")
@click.version_option(__version__, prog_name="resnext-parity")
@guarded
def main(
    path: Path,
    backend_name: str | None,
    against: str,
    batch: int | None,
    images: int,
    seed: int,
    spec: str | None,
    json_path: str | None,
) -> None:
    """Check that an artifact computes the same function as PyTorch, on the bytes as they are on
    disk.

    Compares logits on seeded test images; NaN, infinity, a wrong shape, dtype or order of rows fail
    always. The verdict names the sha256 that it holds for.
    """
    from resnext.artifact.files import read_artifact
    from resnext.errors import GateFailed
    from resnext.runtimes.onnx_reference import NEEDED
    from resnext.runtimes.registry import natural_backend

    check_writable(json_path)
    artifact = read_artifact(path)
    weights = artifact_weights(artifact, spec)
    if backend_name is None:
        needed = artifact.manifest.kind == "onnx" and artifact.manifest.precision in NEEDED
        backend_name = NODE_BY_NODE if needed else natural_backend(artifact)
    outcome = check_artifact(artifact, weights, backend_name, against, batch, images, seed)
    if json_path != "-":
        _print(outcome, artifact, backend_name, against)
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json(indent=2) + "\n")
    if not outcome.passed:
        raise GateFailed(
            f"{artifact.path} on {backend_name} is outside the parity gate:"
            f" {'; '.join(outcome.failures)}"
        )


def artifact_weights(artifact: Artifact, spec: str | None = None) -> Weights:
    """The weights that an artifact was made from, loaded again and held against the manifest's
    digest.

    Raises:
        BadWeights: they cannot be found, or are not those.
        BadArtifact: the file and its manifest do not agree, so the manifest's word on weights is
            worth nothing.
    """
    from resnext.artifact.onnx_precision import check_onnx_precision
    from resnext.errors import BadWeights
    from resnext.runtimes.pt2.package import check_package_bytes
    from resnext.weights.spec import load_weights

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
    import numpy as np
    import torch

    from resnext.errors import BadArtifact, GateFailed, UsageError
    from resnext.images.synthetic import seeded_pixels
    from resnext.runtimes.onnx_reference import emulated_logits
    from resnext.runtimes.registry import open_session
    from resnext.verify.parity import compare, discriminates, gate_of
    from resnext.verify.reference import kept_reference_logits

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
        with open_session(backend_name, artifact) as session:
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


def _print(outcome: Parity, artifact: Artifact, backend_name: str, against: str) -> None:
    reference = "float64 PyTorch" if against == "torch" else "float32 PyTorch"
    click.echo(
        f"{'PASS' if outcome.passed else 'FAIL'}  {artifact.path} on {backend_name} against"
        f" {reference}"
    )
    click.echo(f"  sha256          {outcome.artifact_sha256}")
    click.echo(f"  images          {outcome.rows}")
    if outcome.max_error is not None:
        click.echo(
            f"  max error       {outcome.max_error:.2e} of the logits' RMS  (absolute"
            f" {outcome.max_abs:.2e})"
        )
        click.echo(f"  mean error      {outcome.mean_error:.2e}  (absolute {outcome.mean_abs:.2e})")
        click.echo(
            f"  max relative    {outcome.max_relative:.2e}, mean {outcome.mean_relative:.2e}"
        )
        click.echo(f"  min cosine      {outcome.min_cosine:.9f}")
        click.echo(
            f"  top-1 agrees    {outcome.top1:.2%}  (at least {outcome.top1_low:.2%} with 95 %"
            " confidence)"
        )
        click.echo(f"  top-5 agrees    {outcome.top5:.2%}")
    if outcome.error_ratio is not None:
        of = f"what eager {artifact.manifest.precision} PyTorch loses"
        if artifact.manifest.quantization is not None:
            of = (
                "what the file loses computed node by node; resnext-bench --accuracy says what that"
                " costs"
            )
        click.echo(f"  error ratio     {outcome.error_ratio:.2f} times {of}")


if __name__ == "__main__":
    main()
