"""The command ``resnext-export rebuild``: make an artifact again from its manifest."""

from __future__ import annotations

from pathlib import Path

import click

from resnext.cli.app import SETTINGS, guarded
from resnext.cli.options import trust_options
from resnext.cli.sections import SectionedCommand
from resnext_export.pipeline import rebuild as rebuilt

from .export import note, report
from .options import output_options

_EPILOG = """\b
Examples:
  resnext-export rebuild engine/                  in place, for this machine
  resnext-export rebuild model/ --output again/   ONNX: the same bytes again
"""


@click.command("rebuild", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@output_options("the artifact's own, which it replaces")
@trust_options
@guarded
def rebuild(path: Path, output: Path | None, force: bool, check: bool) -> None:
    """Make an artifact again from the request in its manifest, with the libraries installed here.

    Only the manifest is read, so the artifact may be damaged or made for another machine.
    """
    report(rebuilt(path, output, check=check, force=force, say=note))
