"""The command ``resnext-parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.runtimes.registry import ARTIFACT_RUNTIMES
from resnext.version import __version__

from .app import (
    SETTINGS,
    NameType,
    OneLineCommand,
    check_writable,
    guarded,
    json_option,
    write_text,
)

#: What ``--backend`` takes beside the runtimes.
NODE_BY_NODE = "node-by-node"

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.verify.parity import Parity


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
    type=NameType("backend", (*ARTIFACT_RUNTIMES, NODE_BY_NODE)),
    metavar="NAME",
    help=(
        f"Runtime that runs the artifact: {', '.join(ARTIFACT_RUNTIMES)}; or {NODE_BY_NODE}, which"
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
    from resnext.runtimes.registry import natural_runtime

    check_writable(json_path)
    artifact = read_artifact(path)
    from resnext.verify.check import artifact_weights, check_artifact

    weights = artifact_weights(artifact, spec)
    if backend_name is None:
        needed = artifact.manifest.kind == "onnx" and artifact.manifest.precision in NEEDED
        backend_name = NODE_BY_NODE if needed else natural_runtime(artifact)
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
