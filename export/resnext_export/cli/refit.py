"""The command ``resnext-export refit``: put weights into a stripped engine."""

from __future__ import annotations

from pathlib import Path

import click

from resnext.cli.app import SETTINGS, echo, guarded
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import UsageError
from resnext.runtimes.trt.library import library_of

from .options import output_options

_EPILOG = """\b
Examples:
  resnext-export --format trt --strip-weights --output thin/
  resnext-export refit thin/ --output engine/                              the original weights
  resnext-export refit thin/ --weights newer.safetensors --output engine/  other weights
Needs the GPU that the engine was built for. The refitted engine is compared with PyTorch.
"""


@click.command("refit", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="ENGINE")
@option_of("Network")(
    "--weights",
    "spec",
    metavar="SPEC",
    help="Weights, as in resnext-export.  [default: those that the engine was built from]",
)
@output_options()
@guarded
def refit(path: Path, spec: str | None, output: Path, force: bool, check: bool) -> None:
    """Put weights into an engine built with --strip-weights, and compare it with PyTorch."""
    from resnext.artifact.files import check_destination, read_artifact
    from resnext.machine.machine import this_machine
    from resnext.runtimes.trt.library import require_driver
    from resnext_export.formats.tensorrt import refit_engine

    artifact = read_artifact(path)
    record = artifact.manifest.engine
    if record is None or not record.options.strip_weights:
        raise UsageError(
            f"{path} is not an engine without weights; build one with --format trt --strip-weights"
        )
    check_destination(output, force=force)
    require_driver(library_of(record.library), this_machine().driver)
    made = refit_engine(artifact, spec, output, check=check, force=force)
    echo(f"wrote     {made.path}  ({made.manifest.file_size_bytes / 1e6:.1f} MB)")
    echo(f"weights   {made.manifest.weights.source}, sha256 {made.manifest.weights.sha256}")
    if made.manifest.check is None:
        click.echo("parity    NOT CHECKED (--no-check)")
    else:
        click.echo(
            f"parity    ok: max error {made.manifest.check.max_error:.1e} on"
            f" {made.manifest.check.backend}"
        )
