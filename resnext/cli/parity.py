"""The command ``resnext-parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnext.runtimes.registry import ARTIFACT_RUNTIMES, LOCAL_ARTIFACT_RUNTIMES, REFERENCE
from resnext.storage import check_writable, write_text
from resnext.version import __version__

from .app import SETTINGS, echo, guarded
from .junit import JUnit, junit_option
from .options import (
    COMPARE,
    OUTPUT,
    RUN,
    artifact_option,
    backend_option,
    gate_option,
    json_option,
    seed_option,
    size_of,
    trust_options,
)
from .sections import SectionedGroup, option_of, runs_subcommand

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest
    from resnext.verify.check import ReferenceName
    from resnext.verify.parity import Parity

_EPILOG = """\b
Examples:
  resnext-parity --artifact resnext50_32x4d-seeded-fp32-onnx
  resnext-parity --artifact out/ --backend ort-cuda --batch 64 --json parity.json
  resnext-parity --artifact engine/ --backend trt
  resnext-parity --artifact out/ --weights moved/checkpoint.pth
  resnext-parity --artifact fp8/ --backend onnx-reference    fp8 without a GPU
  resnext-parity --artifact out/ --batch-integrity           are the rows of a batch independent?
  resnext-parity --artifact model.onnx                       any ONNX classifier, against itself
  resnext-parity --artifact out/ --verdict                   and store the outcome in out/
  resnext-parity --artifact out/ --pixels port.npy           is a C++ port's input right?
  resnext-parity --artifact int8/ --bisect --output mended/  which blocks must stay float?
  resnext-parity verify out/                                 does it still hold, here?
Exit code 0: the same function. 1: outside the gate. 4: the artifact is broken.
"""


_COMMANDS = {
    "verify": (
        "resnext.cli.verify:verify",
        "Check that the verdict beside an artifact still holds, here and now.",
    ),
}


_compare = option_of(COMPARE)

#: References in words.
_REFERENCES = {
    "torch": "float64 PyTorch",
    "torch-fp32": "float32 PyTorch",
    "onnx": "the file itself in float64",
}


@click.group(
    cls=SectionedGroup,
    lazy=_COMMANDS,
    invoke_without_command=True,
    context_settings=SETTINGS,
    epilog=_EPILOG,
)
@artifact_option(
    "Folder that resnext-export wrote, the file in it, or an ONNX file from elsewhere."
)
@backend_option(
    ARTIFACT_RUNTIMES,
    f"Runtime that runs the artifact: {', '.join(LOCAL_ARTIFACT_RUNTIMES)}; v2:URL asks a server"
    f" (http|https|grpc://HOST:PORT/MODEL). {REFERENCE} computes an ONNX file of any precision as"
    " ONNX defines it, without a GPU.  [default: ort, or the artifact's"
    f" own; for bf16 and fp8 {REFERENCE}]",
)
@option_of(RUN)(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images in one run.  [default: 7, or the artifact's fixed batch]",
)
@option_of(RUN)(
    "--batch-integrity",
    is_flag=True,
    help="Compare the rows of batches with each other instead of with PyTorch: each must depend on"
    " its image alone, at every batch size. Needs no weights; --batch examines one size alone.",
)
@option_of(RUN)(
    "--pixels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare the pixels that a port of the preprocessing makes of the artifact's conformance"
    " kit (resnext-export --conformance-kit) with ours, and say what is wrong: a .npy file, uint8 N"
    " x H x W x C or normalized floats N x C x H x W. Needs no weights.",
)
@option_of(RUN)(
    "--bisect",
    is_flag=True,
    help="If an int8, fp8, bf16 or fp16 artifact misses its gate, find a cheap set of blocks"
    " that must stay float for it to meet it: what each block loses, real builds judged on"
    " --backend, what the mended artifact costs in time. Needs the exporter.",
)
@option_of(RUN)(
    "--input-size",
    metavar="HxW",
    help="Height and width of an ONNX file from elsewhere that leaves them open.",
)
@_compare(
    "--reference",
    type=click.Choice(["torch", "torch-fp32", "onnx"]),
    help="Eager PyTorch in float64 or float32, or the ONNX file itself in float64.  [default:"
    " torch; onnx for an ONNX file from elsewhere]",
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
    help="Number of images to compare, rounded up to whole batches.",
)
@_compare(
    "--images-from",
    metavar="SPEC",
    help="Images to compare: digits, fashion-mnist, or a folder of pictures. Adversarial inputs"
    " come on top.  [default: seeded ones]",
)
@gate_option()
@_compare(
    "--agreement",
    type=click.FloatRange(min=0, max=1, min_open=True),
    metavar="SHARE",
    help="With --bisect: least share of the images whose first class must be PyTorch's, 0.99 for"
    " example. --images 500 or more make it mean something.",
)
@seed_option("Seed for the test images.", COMPARE)
@json_option("Write the result, or the whole verdict with --verdict, as JSON")
@option_of(OUTPUT)(
    "--verdict",
    is_flag=True,
    help="Also check the cheap half of batch integrity (all of it with --batch-integrity), measure"
    " delivered precision and a time, and store it all as verdict.json beside the artifact, bound"
    " to its bytes.",
)
@option_of(OUTPUT)(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --bisect: folder to create for an artifact that meets the gate, the mended one or a"
    " copy if there is nothing to mend.  [default: none is kept]",
)
@click.version_option(__version__, prog_name="resnext-parity")
@click.pass_context
@guarded
@junit_option("resnext-parity")
@trust_options
def main(
    ctx: click.Context,
    /,
    artifact: Path | None,
    backend: str | None,
    batch: int | None,
    batch_integrity: bool,
    bisect: bool,
    pixels: Path | None,
    input_size: str | None,
    reference: ReferenceName | None,
    spec: str | None,
    images: int,
    images_from: str | None,
    gate: str,
    agreement: float | None,
    seed: int,
    json_path: str | None,
    junit: JUnit,
    verdict: bool,
    output: Path | None,
) -> None:
    """Check that the bytes on disk compute the same function as PyTorch, or as ONNX defines it.

    Compares logits on seeded test images and on adversarial inputs: constant, extreme, sparse,
    denormal and huge ones. NaN, infinity, and a wrong shape, dtype or row order always fail. The
    verdict names the sha256 of the file it is about.
    """
    if runs_subcommand(ctx):
        return
    if artifact is None:
        raise click.UsageError("--artifact is needed")
    from resnext.artifact.foreign import open_artifact
    from resnext.errors import GateFailed, UsageError
    from resnext.verify.check import check, chosen_reference, natural_runtime
    from resnext.verify.verdict import check_room, judge, write_verdict

    from . import batch_integrity as rows
    from . import bisect as search
    from . import pixels as port
    from .parity_junit import cases_of_integrity, cases_of_parity, classname
    from .parity_report import fewer_images, report
    from .verify import measured

    check_writable(json_path)
    if bisect and (verdict or batch_integrity or pixels is not None or reference is not None):
        raise UsageError(
            "`bisect` judges each artifact that it builds by PyTorch; drop `verdict`,"
            " `batch_integrity`, `pixels` and `reference`"
        )
    if not bisect and (output is not None or agreement is not None):
        raise UsageError("`output` and `agreement` are for `bisect`")
    if pixels is not None:
        if verdict or batch_integrity:
            raise UsageError(
                "`pixels` compares pixels, not logits; drop `verdict` and `batch_integrity`"
            )
        port.run(artifact, pixels, backend, json_path, junit)
        return
    if verdict and reference == "torch-fp32":
        raise UsageError("a verdict compares with float64; drop `reference` or `verdict`")
    opened = open_artifact(artifact, input_size=None if input_size is None else size_of(input_size))
    if batch_integrity and not verdict:
        rows.run(opened, backend, batch, seed, json_path, junit)
        return
    if bisect:
        search.run(
            opened,
            json_path,
            junit,
            output,
            weights=spec,
            runtime=backend,
            batch=batch,
            images=images,
            seed=seed,
            images_from=images_from,
            gate=gate,
            agreement=agreement,
        )
        return
    against = chosen_reference(opened, reference)
    runtime = backend or natural_runtime(opened)
    how: dict[str, Any] = {
        "weights": spec,
        "runtime": runtime,
        "batch": batch,
        "images": images,
        "seed": seed,
        "images_from": images_from,
        "gate": gate,
        "reference": against,
    }
    judged = None
    if verdict:
        check_room(opened)
        judged = judge(opened, **how, quick=not batch_integrity)
        outcome, broken = judged.parity, judged.integrity.failures
        echo(f"wrote {write_verdict(opened, judged)}", err=True)
    else:
        outcome, broken = check(opened, **how), ()
    if (fewer := fewer_images(outcome.inputs[0].name, outcome.rows, images)) is not None:
        echo(fewer, err=True)
    lines = report(outcome, opened.manifest, requested=images)
    group = classname(opened, runtime)
    junit.add(cases_of_parity(outcome, group), "\n".join(lines))
    if judged is not None:
        junit.add(cases_of_integrity(judged.integrity, group))
    if json_path != "-":
        precise = _REFERENCES[against]
        word = "PASS" if outcome.passed else "FAIL"
        echo(f"{word}  {opened.path} on {runtime} against {precise}")
        for line in lines:
            echo(f"  {line}".rstrip())
        if outcome.unknown:
            echo(f"  note        {outcome.unknown}")
        if judged is not None:
            rows.say(judged.integrity, opened.path)
            for line in measured(judged):
                echo(f"  {line}")
    if json_path is not None:
        stored = judged.to_json() if judged else outcome.model_dump_json(indent=2) + "\n"
        write_text(json_path, stored)
    if not outcome.passed:
        raise GateFailed(
            f"{opened.path} on {runtime} is outside the parity gate: {'; '.join(outcome.failures)}",
            hint=_hint(outcome, opened.manifest, images_from),
        )
    if broken:
        raise GateFailed(
            f"the rows of a batch are not independent in {opened.path} on {runtime}:"
            f" {'; '.join(broken)}"
        )


def _hint(outcome: Parity, manifest: Manifest, images_from: str | None) -> str:
    """What to try for a file from elsewhere, for a quantized artifact whose logits missed a limit
    on seeded images, or for one of low precision.
    """
    from resnext.precision import DEFAULT
    from resnext.verify.file_reference import ROWS_HINT

    if manifest.foreign:
        return ROWS_HINT if images_from is None else ""
    within = all(limit.passed for limit in outcome.limits)
    # Within all limits it is the type or an adversarial input: no block loses by its precision.
    if manifest.precision == DEFAULT or (within and outcome.max_error is not None):
        return ""
    blame = "`bisect` finds the blocks that it loses by"
    record = manifest.quantization
    if images_from is not None or record is None or record.source.startswith("random"):
        return blame
    return (
        "seeded images may lie outside the calibrated ranges; set `images_from` to images like"
        f" those of the calibration ({record.source}); if it misses these, too, {blame}"
    )


if __name__ == "__main__":
    main()
