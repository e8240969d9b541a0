"""The command ``resnext-export rebuild``: an artifact again, from the request in its manifest."""

from __future__ import annotations

from pathlib import Path

import click

from resnext.cli.app import SETTINGS, OneLineCommand, guarded
from resnext_export.pipeline import rebuild as rebuilt

from .export import note, report

_EPILOG = """\b
Examples:
  resnext-export rebuild engine/                  in place, for this machine
  resnext-export rebuild model/ --output again/   an ONNX file comes out byte for byte
"""


@click.command("rebuild", cls=OneLineCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to create.  [default: replace the artifact]",
)
@click.option("--force", is_flag=True, help="Replace an artifact that is already in --output.")
@click.option(
    "--check/--no-check",
    default=True,
    help="Compare the written file with PyTorch.  [default: check]",
)
@guarded
def rebuild(path: Path, output: Path | None, force: bool, check: bool) -> None:
    """Make an artifact again from the request in its manifest, with the libraries installed here.

    Only the manifest is read, so the artifact itself may be damaged or of another machine.
    """
    report(rebuilt(path, output, check=check, force=force, say=note))
