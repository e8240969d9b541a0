"""The command ``resnext-export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from resnext.cli.app import SETTINGS, OneLineGroup, guarded
from resnext.cli.options import json_option, weights_options
from resnext.cli.params import NameType
from resnext.precision import PRECISIONS, Precision
from resnext.storage import check_writable, write_text
from resnext.version import __version__
from resnext_export.request import Asked

from .check_trt import check_trt
from .derivation import derivation
from .engine_options import asked_for, engine_options
from .inspect import inspect
from .recipe_options import recipe_options, recipe_request
from .refit import refit

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest

FORMATS = {
    "onnx": "ONNX, opset 20: one self-contained file, batch norms folded, any batch size",
    "openvino": "OpenVINO's IR, in one file",
    "trt": "an engine of TensorRT, or of TensorRT-RTX where only that is installed",
    "trt-rtx": "an engine of TensorRT-RTX, built without a GPU",
    "pt2": "an AOTInductor package of PyTorch, compiled for machines like this one",
}

_EPILOG = """\b
Examples:
  resnext-export --format onnx                    ResNeXt-50 32x4d, seeded weights
  resnext-export --format onnx --weights digits   a shipped, trained network
  resnext-export --format onnx --model resnext101_32x8d --weights checkpoint.pth --output engine/
  resnext-export --format openvino
  resnext-export --format pt2 --batch 8           compiled ahead of time by PyTorch
  resnext-export --format trt --precision fp16 --batch 1:8:64
  resnext-export --format trt --batch 1,64:64:256  two optimization profiles
  resnext-export --format trt-rtx --target sm_89,sm_120  ahead of time, for other machines' GPUs
  resnext-export inspect engine/                  can this machine load it? what did each layer get?
  resnext-export check-trt model.onnx             does TensorRT take this file? no GPU needed
  resnext-export --list-models                    variants, parameters, MACs
"""


@click.group(
    cls=OneLineGroup, invoke_without_command=True, context_settings=SETTINGS, epilog=_EPILOG
)
@click.option(
    "--format",
    "target",
    type=NameType("format", tuple(FORMATS)),
    metavar="|".join(FORMATS),
    help="What to export to.  "
    + "; ".join(f"{name}: {about}" for name, about in FORMATS.items())
    + ".",
)
@weights_options
@click.option(
    "--precision",
    type=NameType("precision", tuple(PRECISIONS)),
    metavar="|".join(PRECISIONS),
    help=(
        "Element type of weights and activations: made of the float32 ONNX artifact.  [default:"
        " fp32]"
    ),
)
@click.option(
    "--batch",
    metavar="MIN:OPT[:MAX]|N[,...]",
    help=(
        "Batch sizes to take: a range (no MAX: no limit), or one fixed size; for an engine, one or"
        " several ranges with MAX, each an optimization profile.  [default: 1:8, for an engine"
        " 1:8:64]"
    ),
)
@click.option(
    "--bake-preprocessing",
    is_flag=True,
    help="Take uint8 NHWC pixels and normalise inside the graph.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="What a .pt2 package is compiled for.  [default: cpu]",
)
@recipe_options
@engine_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to make.  [default: ./MODEL-WEIGHTS-PRECISION-FORMAT]",
)
@click.option("--force", is_flag=True, help="Replace an artifact that is already in DIR.")
@click.option(
    "--check/--no-check",
    default=True,
    help="Compare the written file with PyTorch.  [default: check]",
)
@json_option("Write the manifest, or the model list, as JSON")
@click.option(
    "--list-models", is_flag=True, help="Print every variant with parameters and MACs, and stop."
)
@click.version_option(__version__, prog_name="resnext-export")
@click.pass_context
@guarded
def main(
    ctx: click.Context,
    /,
    target: str | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    precision: Precision | None,
    batch: str | None,
    bake_preprocessing: bool,
    device: Literal["cpu", "cuda"] | None,
    output: Path | None,
    force: bool,
    check: bool,
    json_path: str | None,
    list_models: bool,
    **others: Any,
) -> None:
    """Export a ResNeXt, and prove that the written file computes what PyTorch computes.

    The folder that appears holds the model and manifest.json, its passport: configuration, weights,
    preprocessing, sha256, versions, and the outcome of the check. It appears whole or not at all.
    """
    if ctx.invoked_subcommand is not None:
        typed = click.core.ParameterSource.COMMANDLINE
        if any(ctx.get_parameter_source(name) is typed for name in ctx.params):
            raise click.UsageError(f"options go after {ctx.invoked_subcommand}, and it has its own")
        return
    check_writable(json_path)
    if list_models:
        from .models import print_models

        print_models(json_path)
        return
    if target is None:
        instead = "--list-models, inspect, check-trt or refit"
        raise click.UsageError(f"--format is needed: {', '.join(FORMATS)} (or {instead})")
    asked = Asked(
        target,
        model,
        spec,
        num_classes,
        input_size,
        precision,
        batch,
        bake_preprocessing,
        output,
        check,
        force,
        recipe_request(others),
        device,
    )
    request = asked_for(others)
    derived = target == "onnx" and asked.wanted_recipe() is not None
    if target in ("onnx", "openvino", "pt2"):
        request.refuse_without_engine(from_onnx=target != "onnx" or derived)
    if device is not None and target != "pt2":
        raise click.UsageError("--device is for --format pt2")
    if output is not None:
        from resnext.artifact.files import check_destination

        check_destination(output, force=force)
    if target == "onnx" and not derived:
        artifact = _export_onnx(asked)
    elif target == "pt2":
        from resnext_export.formats.pt2 import export_pt2_as_asked

        artifact = export_pt2_as_asked(asked, request)
    else:
        from .engine import export_derived_as_asked, export_from_onnx_as_asked

        artifact = (export_derived_as_asked if derived else export_from_onnx_as_asked)(
            asked, request
        )
    if json_path is not None:
        write_text(json_path, artifact.manifest.to_json())
    if json_path != "-":
        _say(artifact)


def _export_onnx(asked: Asked) -> Artifact:
    from resnext.artifact.manifest import BatchRange
    from resnext_export.formats.onnx import export_onnx

    batch = BatchRange.parse(asked.batch or "1:8")
    weights = asked.weights()
    return export_onnx(
        weights,
        asked.directory(weights, "fp32", "onnx"),
        batch=batch,
        bake_preprocessing=asked.bake_preprocessing,
        check=asked.check,
        force=asked.force,
    )


main.add_command(inspect)
main.add_command(check_trt)
main.add_command(refit)


def _say(artifact: Artifact) -> None:
    manifest = artifact.manifest
    spec_in, spec_out = manifest.inputs[0], manifest.outputs[0]
    how = f"opset {manifest.opset}"
    if manifest.engine is not None:
        record = manifest.engine
        how = f"{record.library} {record.version}, built in {record.build_s:.1f} s"
    elif manifest.package is not None:
        how = manifest.package.title()
    click.echo(f"wrote     {artifact.path}  ({manifest.file_size_bytes / 1e6:.1f} MB, {how})")
    click.echo(
        f"model     {manifest.model or 'custom'}, weights {manifest.weights.source},"
        f" {manifest.precision}"
    )
    click.echo(
        f"input     {spec_in.name} {spec_in.dtype} {_shape(spec_in.shape)}, batch"
        f" {manifest.batches()}"
    )
    click.echo(f"output    {spec_out.name} {spec_out.dtype} {_shape(spec_out.shape)}")
    click.echo(f"sha256    {manifest.file_sha256}")
    for line in derivation(manifest):
        click.echo(line)
    if manifest.engine is not None:
        from .engine import say_engine

        say_engine(manifest)
    click.echo(f"parity    {_parity(manifest)}")


def _parity(manifest: Manifest) -> str:
    done = manifest.check
    if done is not None:
        ratio = ""
        if done.error_ratio is not None:
            ratio = f", {done.error_ratio:.2g} times what {manifest.precision} costs by itself"
        return (
            f"ok: max error {done.max_error:.1e} of the logits' RMS (allowed"
            f" {done.tolerance:.0e}){ratio}, against eager PyTorch, batch"
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
        from resnext.runtimes.compatibility import obstacles, this_machine
        from resnext.runtimes.trt.library import flavour_of

        if found := obstacles(manifest, this_machine(flavour_of(manifest.engine.library))):
            return f"NOT CHECKED: {found[0].reason}; on its machine: {later}"
    if manifest.package is not None:
        return f"NOT CHECKED (--no-check); later, on a machine that it is for: {later}"
    return "NOT CHECKED (--no-check)"


def _shape(shape: tuple[int | None, ...]) -> str:
    return json.dumps(["N" if size is None else size for size in shape]).replace('"', "")


if __name__ == "__main__":
    main()
