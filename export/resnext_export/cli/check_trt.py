"""The command ``resnext-export check-trt``: does TensorRT accept an ONNX file? No GPU needed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnext.cli.app import SETTINGS, echo, guarded, printable
from resnext.cli.options import json_option
from resnext.cli.params import NameType
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed, MissingRequirement, UsageError
from resnext.runtimes.trt.library import EngineKind, library_for
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext_export.tensorrt.acceptance import Acceptance

_EPILOG = """\b
Examples:
  resnext-export check-trt model.onnx
  resnext-export check-trt model.onnx --batch 1:8:64 --target sm_89
  resnext-export check-trt detector.onnx --shape images=Nx3x640x640 --json findings.json
Exit code 0: an engine was built. 1: the file is refused; the table lists the refused nodes.
"""


_engine = option_of("Engine")


@click.command("check-trt", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@_engine(
    "--library",
    "kind",
    type=NameType("library", ("trt", "trt-rtx")),
    default="trt-rtx",
    show_default=True,
    metavar="trt|trt-rtx",
    help="TensorRT-RTX, which needs no GPU, or TensorRT on this machine's GPU.",
)
@_engine(
    "--batch",
    default="1:8:64",
    show_default=True,
    metavar="MIN:OPT:MAX|N",
    help="Batch sizes for inputs with a dynamic first dimension.",
)
@_engine(
    "--shape",
    "shape_texts",
    multiple=True,
    metavar="INPUT=NxCxHxW",
    help=(
        "Shape of an input with dynamic dimensions besides the first; N is the batch. Repeat it"
        " for other inputs."
    ),
)
@_engine(
    "--target",
    "targets",
    metavar="sm_89[,sm_120]",
    help="Compute capabilities to build for.  [default: Ampere and later]",
)
@json_option("Write the findings as JSON")
@guarded
def check_trt(
    path: Path,
    kind: str,
    batch: str,
    shape_texts: tuple[str, ...],
    targets: str | None,
    json_path: str | None,
) -> None:
    """Parse an ONNX file with TensorRT's own parser, build an engine, and list the refused nodes.

    The engine is discarded. TensorRT-RTX needs no GPU, so this runs in any CI.
    """
    check_writable(json_path)
    from resnext.artifact.manifest import BatchRange
    from resnext.artifact.records import EngineOptions
    from resnext_export.tensorrt.acceptance import check_onnx, onnx_file

    profile = BatchRange.parse(batch)
    if profile.max is None:
        raise UsageError(f"an engine needs an upper limit: --batch {batch}:MAX")
    shapes = {}
    for text in shape_texts:
        name, equals, shape = text.rpartition("=")
        if not equals:
            raise UsageError(f"--shape {text!r} is not INPUT=NxCxHxW")
        shapes[name] = shape
    path = onnx_file(path)
    chosen = tuple(part.strip() for part in (targets or "").split(",") if part.strip())
    library = library_for(cast("EngineKind", kind))
    if library.kind != kind:  # the answer of another library is of no use
        raise MissingRequirement(
            "TensorRT is not installed: pip install tensorrt, or check with --library trt-rtx"
        )
    outcome = check_onnx(path, library, EngineOptions(profiles=(profile,), targets=chosen), shapes)
    if json_path is not None:
        write_text(
            json_path,
            json.dumps(_facts(path, library.title, library.version, outcome), indent=2) + "\n",
        )
    if json_path != "-":
        _print(path, f"{library.title} {library.version}", outcome)
    if not outcome.accepted:
        refused = [finding for finding in outcome.findings if finding.severity == "refused"]
        where = f" at node {refused[0].where!r}" if refused[0].where else ""
        raise GateFailed(
            f"{library.title} {library.version} refuses {path}{where}: {refused[0].message}",
            hint=refused[0].hint,
        )


def _print(path: Path, library: str, outcome: Acceptance) -> None:
    if outcome.findings:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("finding", "stage", "node", "operator"):
            table.add_column(heading, no_wrap=True)
        table.add_column("reason", overflow="fold")
        for finding in outcome.findings:
            color = "red" if finding.severity == "refused" else "yellow"
            severity = Text(finding.severity, style=color)
            operator = outcome.operators.get(finding.where, "")
            cells = (finding.code, finding.where, operator, finding.message)
            table.add_row(severity, *map(printable, cells))
        # Node names may look like rich's markup.
        width = None if Console().is_terminal else 200
        Console(highlight=False, markup=False, emoji=False, width=width).print(table)
    if outcome.engine is not None:
        built = outcome.engine
        types = Counter(layer.dtype for layer in built.layers if layer.multiplies)
        products = (
            ", ".join(f"{count} in {dtype}" for dtype, count in types.most_common()) or "none"
        )
        size_mb = len(built.data) / 1e6
        echo(
            f"accepted  {path}: {outcome.nodes} nodes, engine of {size_mb:.1f} MB in"
            f" {built.build_s:.1f} s by {library}"
        )
        echo(f"products  {products} (convolutions and matrix products, after fusion)")


def _facts(path: Path, library: str, version: str | None, outcome: Acceptance) -> dict[str, Any]:
    built = outcome.engine
    return {
        "file": str(path),
        "library": library,
        "version": version,
        "accepted": outcome.accepted,
        "nodes": outcome.nodes,
        "findings": [
            {
                "severity": finding.severity,
                "stage": finding.code,
                "node": finding.where,
                "operator": outcome.operators.get(finding.where, ""),
                "reason": finding.message,
            }
            for finding in outcome.findings
        ],
        "engine_size_bytes": None if built is None else len(built.data),
        "build_s": None if built is None else round(built.build_s, 3),
        "layers": (
            [] if built is None else [layer.model_dump(mode="json") for layer in built.layers]
        ),
    }
