"""The command ``resnext-export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnext.cli.app import SETTINGS, as_flags, echo, guarded
from resnext.cli.options import json_option, preprocessing_file_option, sbom_option, with_file
from resnext.cli.sections import runs_subcommand
from resnext.readers.files import exists
from resnext.storage import check_writable, write_text
from resnext.version import __version__
from resnext_export.derivation import derivation, model_line, reference_of
from resnext_export.registry import FORMATS
from resnext_export.triton.options import REPOSITORIES

from .options import ExportGroup, output_options, request_from, take_repository_options
from .repository import export_repository

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest

_EPILOG = """\b
Examples:
  resnext-export --format onnx                      ResNeXt-50 32x4d, seeded weights
  resnext-export --format onnx --weights digits     shipped, trained network
  resnext-export --format onnx --weights timm:resnext50_32x4d.a1h_in1k
  resnext-export --format onnx --model resnext101_32x8d --weights checkpoint.pth --output out/
  resnext-export --format openvino
  resnext-export --format pt2 --batch 8             compiled ahead of time by PyTorch
  resnext-export --format pt2 --device cuda --precision fp16 --kernels fused
  resnext-export --format trt --precision fp16 --batch 1:8:64
  resnext-export --format trt --batch 1,64:64:256   two optimization profiles
  resnext-export --format trt-rtx --target sm_89    ahead of time, for other machines' GPUs
  resnext-export --format triton --weights digits --output models/
  resnext-export check-triton models/               would Triton serve it, and rightly?
  resnext-export inspect engine/                    loadable here? what did each layer get?
  resnext-export explain checkpoint.pth             what would fp16, int8, merged groups bring?
  resnext-export check-trt model.onnx               does TensorRT accept it? no GPU needed
  resnext-export rebuild engine/ --output new/      make an artifact again from its manifest
  resnext-export tune --weights digits --output best/  the artifact that runs best on this machine
  resnext-export doctor                             does everything work on this machine?
  resnext-export --list-models                      variants, parameters, MACs
  resnext-export --list-weights                     published weights, top-1, licenses
"""

_COMMANDS = {
    "check-trt": (
        "resnext_export.cli.check_trt:check_trt",
        "Check whether TensorRT accepts an ONNX file.",
    ),
    "check-triton": (
        "resnext_export.cli.check_triton:check_triton",
        "Check a model repository of Triton's, before a server sees it.",
    ),
    "doctor": (
        "resnext_export.cli.doctor:doctor",
        "Show what works on this machine, and what mends the rest.",
    ),
    "explain": (
        "resnext_bench.cli.explain:explain",
        "Say what to expect from each precision here, before a build.",
    ),
    "inspect": (
        "resnext_export.cli.inspect:inspect",
        "Show what an artifact is, and whether it loads here.",
    ),
    "rebuild": (
        "resnext_export.cli.rebuild:rebuild",
        "Make an artifact again from its manifest; --times N compares builds.",
    ),
    "refit": (
        "resnext_export.cli.refit:refit",
        "Put weights into an engine that was built without.",
    ),
    "sign": (
        "resnext_export.cli.sign:sign",
        "Sign an artifact and its verdict.",
    ),
    # Named, not imported: the benchmark, which measures, is above the exporter.
    "tune": (
        "resnext_bench.cli.tune:tune",
        "Find the artifact that runs best on this machine, under your limits.",
    ),
    "verify": (
        "resnext_export.cli.sign:verify",
        "Verify an artifact's signature, and name what differs.",
    ),
}


@click.group(
    cls=ExportGroup,
    lazy=_COMMANDS,
    invoke_without_command=True,
    context_settings=SETTINGS,
    epilog=_EPILOG,
)
@preprocessing_file_option()
@output_options("./MODEL-WEIGHTS-PRECISION-FORMAT, ./model_repository for a repository")
@json_option("Write the manifest, or a list, as JSON")
@sbom_option()
@click.option(
    "--list-models", is_flag=True, help="List every variant with parameters and MACs, and exit."
)
@click.option(
    "--list-weights",
    is_flag=True,
    help="List the published weights with preprocessing, top-1 and license, and exit.",
)
@click.version_option(__version__, prog_name="resnext-export")
@click.pass_context
@guarded
def main(
    ctx: click.Context,
    /,
    output: Path | None,
    force: bool,
    check: bool,
    json_path: str | None,
    sbom_path: str | None,
    preprocessing: Path | None,
    list_models: bool,
    list_weights: bool,
    **fields: Any,
) -> None:
    """Export a ResNeXt, and prove that the written file computes what PyTorch computes.

    The output folder holds the model and manifest.json: configuration, weights, preprocessing,
    sha256, versions, and the result of the check. It appears whole or not at all. For triton and
    kserve it is a model repository, in which the model's version folder is that artifact.
    """
    if runs_subcommand(ctx):
        return
    for target in (json_path, sbom_path):
        check_writable(target)
    if list_models:
        from .models import print_models

        print_models(json_path)
        return
    if list_weights:
        from .weights import print_weights

        print_weights(json_path)
        return
    if fields["format"] is None:
        instead = f"--list-models, --list-weights, {', '.join(_COMMANDS)}"
        known = ", ".join((*FORMATS, *REPOSITORIES))
        raise click.UsageError(f"--format is needed: {known} (or {instead})")
    repository = take_repository_options(fields := with_file(fields, preprocessing))
    if fields["format"] in REPOSITORIES:
        artifact = export_repository(fields, repository, output, check, force, json_path, note)
    else:
        from resnext_export.pipeline import run

        artifact = run(request_from(fields), output, check=check, force=force, say=note)
        report(artifact, json_path)
    if sbom_path is not None:
        from resnext_export.sbom import sbom

        write_text(sbom_path, sbom(artifact))


def report(artifact: Artifact, json_path: str | None = None) -> None:
    """Print what was written, or its manifest as JSON."""
    if json_path is not None:
        write_text(json_path, artifact.manifest.to_json())
    if json_path != "-":
        _say(artifact)


def note(line: str) -> None:
    """Print a remark on stderr, apart from the output."""
    echo(f"note: {as_flags(line)}", err=True)


def _say(artifact: Artifact) -> None:
    from resnext.artifact.files import KIT_NAME
    from resnext.artifact.foreign import UNKNOWN
    from resnext.verify.assumed import assumed
    from resnext.verify.untrained import untrained

    manifest = artifact.manifest
    spec_in, spec_out = manifest.inputs[0], manifest.outputs[0]
    how = f"opset {manifest.opset}"
    if manifest.engine is not None:
        record = manifest.engine
        how = f"{record.library} {record.version}, built in {record.build_s:.1f} s"
    elif manifest.package is not None:
        how = manifest.package.title()
    echo(f"wrote     {artifact.path}  ({manifest.file_size_bytes / 1e6:.1f} MB, {how})")
    echo(f"model     {model_line(manifest)}")
    echo(
        f"input     {spec_in.name} {spec_in.dtype} {_shape(spec_in.shape)}, batch"
        f" {manifest.batches()}"
    )
    echo(f"output    {spec_out.name} {spec_out.dtype} {_shape(spec_out.shape)}")
    echo(f"sha256    {manifest.file_sha256}")
    pixels = manifest.preprocessing
    if pixels is not None and manifest.preprocessing_source in ("requested", "published"):
        echo(f"pixels    {manifest.preprocessing_source}: {pixels.summary()}")
    if exists(artifact.directory / KIT_NAME):
        echo(f"kit       {artifact.directory / KIT_NAME}: resnext-parity --pixels")
    if (unsure := assumed(pixels, manifest.preprocessing_source)) is not None:
        echo(f"warning   {as_flags(str(unsure))}")
    if manifest.foreign:
        echo(f"note      {UNKNOWN}")
    for line in derivation(manifest):
        echo(line)
    if manifest.engine is not None:
        _say_engine(manifest)
    echo(f"parity    {_parity(manifest)}")
    if (finding := untrained(manifest)) is not None:
        echo(f"warning   {as_flags(str(finding))}")


def _parity(manifest: Manifest) -> str:
    done = manifest.check
    if done is not None:
        ratio = ""
        if done.error_ratio is not None:
            ratio = f", {done.error_ratio:.2g} times what {manifest.precision} costs by itself"
        return (
            f"ok: max error {done.max_error:.1e} of the logits' RMS (allowed"
            f" {done.tolerance:.1e}){ratio}, against {reference_of(manifest)}, batch"
            f" {' and '.join(map(str, done.batches))}, on {done.backend}"
        )
    later = f"resnext-parity --artifact DIR --backend {manifest.kind}"
    if manifest.engine is not None and manifest.engine.gpu is None:
        return f"NOT CHECKED: there is no GPU here to run the engine on; on its machine: {later}"
    if manifest.engine is not None and manifest.engine.options.strip_weights:
        return (
            "NOT CHECKED: the engine has no weights yet; resnext-export refit puts them in and"
            " checks"
        )
    if manifest.engine is not None:
        from resnext.runtimes.compatibility import loadable, machine_for

        if findings := loadable(manifest, machine_for(manifest)):
            return f"NOT CHECKED: {findings[0].message}; on its machine: {later}"
    if manifest.package is not None:
        return f"NOT CHECKED (--no-check); later, on a machine it was built for: {later}"
    return "NOT CHECKED (--no-check)"


def _say_engine(manifest: Manifest) -> None:
    """Print what only an engine has: its target GPUs, fallbacks and delivered precision."""
    from resnext_export.inspection import delivered_line, engine_targets

    record = manifest.engine
    assert record is not None
    ahead = record.library == "tensorrt_rtx"
    echo(f"built for {engine_targets(manifest) if ahead else record.gpu}")
    for done in record.done:
        echo(f"fallback  {done}")
    echo(f"delivered {delivered_line(manifest)}")


def _shape(shape: tuple[int | None, ...]) -> str:
    return json.dumps(["N" if size is None else size for size in shape]).replace('"', "")


if __name__ == "__main__":
    main()
