"""The command ``resnext-export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.command import (
    SETTINGS,
    NameType,
    OneLineCommand,
    check_writable,
    chosen_weights,
    guarded,
    json_option,
    weights_options,
    write_text,
)
from resnext.config import PRECISIONS, Precision
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.weights import Weights

FORMATS = {"onnx": "ONNX, opset 20: one self-contained file, batch norms folded, any batch size"}

_EPILOG = """\b
Examples:
  resnext-export --format onnx                                ResNeXt-50 32x4d, seeded weights
  resnext-export --format onnx --weights digits               a shipped, trained network
  resnext-export --format onnx --model resnext101_32x8d --weights checkpoint.pth --output engine/
  resnext-export --format onnx --batch 8                      a fixed batch of 8
  resnext-export --list-models                                variants, parameters, MACs
"""


@click.command(cls=OneLineCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.option(
    "--format", "target", type=NameType("format", tuple(FORMATS)), metavar="|".join(FORMATS),
    help="What to export to.  " + "; ".join(f"{name}: {about}" for name, about in FORMATS.items()) + ".",
)  # fmt: skip
@weights_options
@click.option(
    "--precision", type=NameType("precision", PRECISIONS), default="fp32", show_default=True,
    metavar="|".join(PRECISIONS), help="Element type of weights and activations; inputs and outputs stay float32.",
)  # fmt: skip
@click.option(
    "--batch", default="1:8", show_default=True, metavar="MIN:OPT[:MAX]|N",
    help="Batch sizes to take: a range (no MAX: no limit), or one fixed size.",
)  # fmt: skip
@click.option("--bake-preprocessing", is_flag=True, help="Take uint8 NHWC pixels and normalise inside the graph.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder to make.  [default: ./MODEL-WEIGHTS-PRECISION-FORMAT]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an artifact that is already in DIR.")
@click.option("--check/--no-check", default=True, help="Compare the written file with PyTorch.  [default: check]")
@json_option("Write the manifest, or the model list, as JSON")
@click.option("--list-models", is_flag=True, help="Print every variant with parameters and MACs, and stop.")
@click.version_option(__version__, prog_name="resnext-export")
@guarded
def main(
    target: str | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    precision: Precision,
    batch: str,
    bake_preprocessing: bool,
    output: Path | None,
    force: bool,
    check: bool,
    json_path: str | None,
    list_models: bool,
) -> None:
    """Export a ResNeXt, and prove that the written file computes what PyTorch computes.

    The folder that appears holds the model and manifest.json, its passport: configuration, weights, preprocessing,
    sha256, versions, and the outcome of the check. It appears whole or not at all.
    """
    check_writable(json_path)
    if list_models:
        from .model_table import print_models

        print_models(json_path)
        return
    if target is None:
        raise click.UsageError(f"--format is needed: {', '.join(FORMATS)} (or --list-models)")

    from resnext.artifact import check_destination
    from resnext.manifest import BatchRange

    batch_range = BatchRange.parse(batch)
    if output is not None:
        check_destination(output, force=force)
    weights = chosen_weights(model, spec, num_classes, input_size)
    directory = output or Path(_default_name(weights, precision, target))

    from .onnx_artifact import export_onnx

    artifact = export_onnx(
        weights,
        directory,
        batch=batch_range,
        bake_preprocessing=bake_preprocessing,
        precision=precision,
        check=check,
        force=force,
    )
    manifest = artifact.manifest
    if json_path is not None:
        write_text(json_path, manifest.to_json())
    if json_path == "-":
        return
    spec_in, spec_out = manifest.inputs[0], manifest.outputs[0]
    click.echo(f"wrote     {artifact.path}  ({manifest.file_size_bytes / 1e6:.1f} MB, opset {manifest.opset})")
    click.echo(f"model     {manifest.model or 'custom'}, weights {manifest.weights.source}, {manifest.precision}")
    click.echo(f"input     {spec_in.name} {spec_in.dtype} {_shape(spec_in.shape)}, batch {manifest.batch}")
    click.echo(f"output    {spec_out.name} {spec_out.dtype} {_shape(spec_out.shape)}")
    click.echo(f"sha256    {manifest.file_sha256}")
    if manifest.check is None:
        click.echo("parity    NOT CHECKED (--no-check)")
    else:
        done = manifest.check
        click.echo(
            f"parity    ok: max error {done.max_error:.1e} of the logits' RMS (allowed {done.tolerance:.0e}) against "
            f"eager PyTorch, batch {' and '.join(map(str, done.batches))}, on {done.backend}"
        )


def _default_name(weights: Weights, precision: str, target: str) -> str:
    from resnext.config import variant_name
    from resnext.shipped import SHIPPED

    config, source = weights.config, weights.source
    if source in SHIPPED and SHIPPED[source].config == config:
        return f"{source}-{precision}-{target}"
    name = variant_name(config) or f"custom_{config.input_size[0]}x{config.input_size[1]}_{config.num_classes}"
    stem = Path(source).stem if Path(source).is_absolute() else source.replace(":", "")
    return f"{name}-{stem}-{precision}-{target}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return json.dumps(["N" if size is None else size for size in shape]).replace('"', "")


if __name__ == "__main__":
    main()
