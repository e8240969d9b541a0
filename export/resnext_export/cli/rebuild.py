"""The command ``resnext-export rebuild``: make an artifact again from its manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.cli.app import SETTINGS, guarded
from resnext.cli.options import json_option, trust_options
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import UsageError
from resnext.storage import check_writable, write_text
from resnext_export.pipeline import rebuild as rebuilt

from .export import note, report
from .options import output_options

if TYPE_CHECKING:
    from resnext_export.spread import Spread

_EPILOG = """\b
Examples:
  resnext-export rebuild engine/                  in place, for this machine
  resnext-export rebuild model/ --output again/   ONNX: the same bytes again
  resnext-export rebuild engine/ --times 5        how much do builds differ?
"""


@click.command("rebuild", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@option_of("Spread")(
    "--times",
    type=click.IntRange(min=2, max=100),
    metavar="N",
    help=(
        "Build N times, keep nothing, and report how much the builds differ: in bytes, in"
        " interleaved latency, in top-1."
    ),
)
@output_options("the artifact's own, which it replaces")
@json_option("Write the manifest, or the builds of --times with raw samples, as JSON")
@guarded
@trust_options
def rebuild(
    path: Path,
    times: int | None,
    output: Path | None,
    force: bool,
    check: bool,
    json_path: str | None,
) -> None:
    """Make an artifact again from the request in its manifest, with the libraries installed here.

    Only the manifest is read, so the artifact may be damaged or made for another machine.
    """
    check_writable(json_path)
    if times is None:
        report(rebuilt(path, output, check=check, force=force, say=note), json_path)
        return
    if output is not None or force:
        raise UsageError("`times` keeps no build", hint="drop `output` and `force`")
    from resnext_export.spread import spread

    found = spread(path, times, check=check, say=note)
    if json_path != "-":
        _print(found)
    if json_path is not None:
        facts = {**asdict(found), "distinct": found.distinct}
        write_text(json_path, json.dumps(facts, indent=2) + "\n")


def _print(found: Spread) -> None:
    count = len(found.builds)
    same = f"{found.distinct} different files" if found.distinct > 1 else "the same bytes"
    click.echo(f"{count} builds: {same}")
    click.echo("build  sha256        MB        ms      relative to the first  top-1 flips")
    for index, build in enumerate(found.builds):
        line = f"{index + 1:5}  {build.sha256[:12]}  {build.size_bytes / 1e6:<8.3f}"
        if build.median_ms is not None:
            ratio = found.ratio(index)
            line += (
                f"  {build.median_ms:<8.3f}{ratio.median:.3f} ({ratio.low:.3f} to"
                f" {ratio.high:.3f})  {build.flips}"
            )
        click.echo(line)
    if found.reason:
        click.echo(f"not run here, only compared byte by byte: {found.reason}")
    else:
        click.echo(
            f"on {found.runtime}, batch {found.batch}, boundary {found.boundary}; flips in"
            f" {found.images} seeded images"
        )
