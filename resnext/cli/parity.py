"""The command ``resnext-parity``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from resnext.runtimes.registry import ARTIFACT_RUNTIMES, REFERENCE
from resnext.storage import check_writable, write_text
from resnext.version import __version__

from .app import SETTINGS, guarded
from .options import (
    COMPARE,
    RUN,
    artifact_option,
    backend_option,
    gate_option,
    json_option,
    seed_option,
)
from .sections import SectionedCommand, option_of

_EPILOG = """\b
Examples:
  resnext-parity --artifact resnext50_32x4d-seeded-fp32-onnx
  resnext-parity --artifact out/ --backend ort-cuda --batch 64 --json parity.json
  resnext-parity --artifact engine/ --backend trt
  resnext-parity --artifact out/ --weights moved/checkpoint.pth
  resnext-parity --artifact fp8/ --backend onnx-reference    fp8 without a GPU
Exit code 0: the same function. 1: outside the gate. 4: the artifact is broken.
"""


_compare = option_of(COMPARE)


@click.command(cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@artifact_option("Folder that resnext-export wrote, or the file in it.", required=True)
@backend_option(
    ARTIFACT_RUNTIMES,
    f"Runtime that runs the artifact: {', '.join(ARTIFACT_RUNTIMES)}. {REFERENCE} computes an ONNX"
    " file of any precision as ONNX defines it, without a GPU.  [default: ort, or the artifact's"
    f" own; for bf16 and fp8 {REFERENCE}]",
)
@option_of(RUN)(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images in one run.  [default: 7, or the artifact's fixed batch]",
)
@_compare(
    "--against",
    type=click.Choice(["torch", "torch-fp32"]),
    default="torch",
    show_default=True,
    help="Reference: eager PyTorch in float64, or in float32.",
)
@_compare(
    "--weights",
    "spec",
    metavar="SPEC",
    help="Weights that the artifact was made from, if they moved.",
)
@_compare(
    "--images",
    type=click.IntRange(min=1),
    default=28,
    show_default=True,
    metavar="N",
    help="Number of images to compare.",
)
@_compare(
    "--images-from",
    metavar="SPEC",
    help="Images to compare: digits, fashion-mnist, or a folder of pictures. Adversarial inputs"
    " come on top.  [default: seeded ones]",
)
@gate_option()
@seed_option("Seed for the test images.", COMPARE)
@json_option("Write the result as JSON")
@click.version_option(__version__, prog_name="resnext-parity")
@guarded
def main(
    artifact: Path,
    backend: str | None,
    batch: int | None,
    against: Literal["torch", "torch-fp32"],
    spec: str | None,
    images: int,
    images_from: str | None,
    gate: str,
    seed: int,
    json_path: str | None,
) -> None:
    """Check that the bytes on disk compute the same function as PyTorch.

    Compares logits on seeded test images and on adversarial inputs: constant, extreme, sparse,
    denormal and huge ones. NaN, infinity, and a wrong shape, dtype or row order always fail. The
    verdict names the sha256 of the file it is about.
    """
    from resnext.artifact.files import read_artifact
    from resnext.errors import GateFailed
    from resnext.verify.check import check, natural_runtime

    check_writable(json_path)
    opened = read_artifact(artifact)
    runtime = backend or natural_runtime(opened)
    outcome = check(
        opened,
        weights=spec,
        runtime=runtime,
        batch=batch,
        images=images,
        seed=seed,
        reference=against,
        images_from=images_from,
        gate=gate,
    )
    if json_path != "-":
        from .parity_report import report

        precise = "float64 PyTorch" if against == "torch" else "float32 PyTorch"
        verdict = "PASS" if outcome.passed else "FAIL"
        click.echo(f"{verdict}  {opened.path} on {runtime} against {precise}")
        for line in report(outcome, opened.manifest):
            click.echo(f"  {line}".rstrip())
    if json_path is not None:
        write_text(json_path, outcome.model_dump_json(indent=2) + "\n")
    if not outcome.passed:
        raise GateFailed(
            f"{opened.path} on {runtime} is outside the parity gate: {'; '.join(outcome.failures)}"
        )


if __name__ == "__main__":
    main()
