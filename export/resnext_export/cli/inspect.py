"""The command ``resnext-export inspect``: manifest, compatibility with this machine, layers."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from resnext.cli.app import SETTINGS, as_flags, echo, guarded, printable
from resnext.cli.options import OUTPUT, backend_option, json_option, sbom_option
from resnext.cli.sections import SectionedCommand, option_of
from resnext.errors import GateFailed, MissingRequirement, UsageError
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES
from resnext.storage import check_writable, write_text
from resnext_export.derivation import derivation, model_line
from resnext_export.registry import FORMATS

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest
    from resnext.artifact.records import PackageRecord
    from resnext.findings import Finding
    from resnext.machine.machine import Machine
    from resnext.runtimes.session import Delivered
    from resnext_export.inspection import Inspection

_EPILOG = """\b
Examples:
  resnext-export inspect engine/                           manifest, loadable here or not, layers
  resnext-export inspect engine/ --require-delivered 0.99  exit 1 below 99 % in that precision
  resnext-export inspect engine/ --require-loadable        exit 3 if this machine cannot load it
  resnext-export inspect out/ --backend ort-cpu            precision of each layer in ONNX Runtime
  resnext-export inspect out/ --sbom out.cdx.json          bill of materials, with the verdict
An engine's or package's manifest answers without loading anything; --backend asks the session.
"""


_require = option_of("Requirements")


@click.command("inspect", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@backend_option(
    LOCAL_RUNTIMES,
    "Runtime to open the artifact on.  [default: none for an engine or package, whose manifest"
    " answers; else ort or openvino]",
)
@_require(
    "--require-delivered",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit 1 if less of the convolution and product FLOPs run in the requested precision.",
)
@_require(
    "--require-loadable",
    is_flag=True,
    help="Exit 3 if this machine cannot load the artifact.",
)
@option_of(OUTPUT)(
    "--layers/--no-layers", "show_layers", default=True, help="Print every layer.  [default: on]"
)
@json_option("Write manifest, compatibility and layers as JSON")
@sbom_option()
@guarded
def inspect(
    path: Path,
    backend: str | None,
    require_delivered: float | None,
    require_loadable: bool,
    show_layers: bool,
    json_path: str | None,
    sbom_path: str | None,
) -> None:
    """Show what an artifact is, whether this machine can load it, and the precision of each layer.

    If an engine or package does not load here, say why, and how to make one that does.
    """
    for target in (json_path, sbom_path):
        check_writable(target)
    from resnext_export.inspection import inspect_artifact
    from resnext_export.sbom import sbom

    if backend is not None and require_delivered is not None and RUNTIMES[backend].live:
        raise UsageError(
            f"{backend} runs the live model and does not look at the file; drop --require-delivered"
        )
    seen = inspect_artifact(path, backend)
    artifact, manifest = seen.artifact, seen.artifact.manifest
    if json_path is not None:
        write_text(json_path, json.dumps(_facts(seen), indent=2) + "\n")
    if sbom_path is not None:
        write_text(sbom_path, sbom(artifact))
    if json_path != "-":
        _say(seen)
        _say_backends(seen)
        echo(f"delivered  {seen.share_line()} ({seen.source})")
        if show_layers:
            _print_layers(manifest, seen.delivered, recorded=backend is None)
    if require_loadable and seen.findings:
        raise MissingRequirement(f"{artifact.path} does not load here: {seen.findings[0].message}")
    if require_delivered is not None and seen.share + seen.kept_share < require_delivered:
        kept = f" ({seen.kept_share:.2%} are kept by request)" * bool(seen.kept_share)
        raise GateFailed(
            f"{artifact.path} delivers {manifest.precision} to {seen.share:.2%} of its convolution"
            f" and product FLOPs{kept}, {require_delivered:.2%} were required"
        )


def _not_requested(manifest: Manifest) -> str:
    """The rest of a preprocessing that was requested in part, or nothing."""
    from resnext_export.request import PREPROCESSING

    requested = {name for name, value in (manifest.request or {}).items() if value is not None}
    if manifest.preprocessing_source != "requested" or not requested.intersection(PREPROCESSING):
        return ""
    if "crop" in requested:
        requested.add("resize")
    return ", ".join(n for n in PREPROCESSING if n != "crop" and n not in requested)


def _say(seen: Inspection) -> None:
    artifact = seen.artifact
    manifest, record = artifact.manifest, artifact.manifest.engine
    library = f"opset {manifest.opset}" if record is None else f"{record.library} {record.version}"
    library = library if manifest.package is None else manifest.package.title()
    echo(
        f"artifact   {artifact.path}  ({manifest.file_size_bytes / 1e6:.1f} MB, {manifest.kind},"
        f" {library})"
    )
    echo(f"sha256     {manifest.file_sha256}")
    echo(f"model      {model_line(manifest)}")
    echo(f"batch      {manifest.batches()}")
    if manifest.preprocessing is not None:
        source = manifest.preprocessing_source or "source not recorded"
        echo(f"pixels     {source}: {manifest.preprocessing.summary()}")
        if left := _not_requested(manifest):
            echo(f"note       {left} not requested: assumed, unless the weights declare it")
    if manifest.foreign:
        from resnext.artifact.foreign import UNKNOWN

        echo(f"note       {UNKNOWN}")
    parity = "none recorded"
    if manifest.check is not None:
        sizes = ", ".join(map(str, manifest.check.batches))
        parity = (
            f"ok on {manifest.check.backend} when made, batch {sizes}: max error"
            f" {manifest.check.max_error:.1e}"
        )
    echo(f"parity     {parity}")
    for line in derivation(manifest):
        echo(f"{line[:10]} {line[10:]}")
    if manifest.package is not None:
        _say_package(manifest.created, manifest.package)
        _say_loadable(seen)
    if record is None:
        return
    gpu = (
        f"{record.gpu} (compute capability {record.compute_capability})" if record.gpu else "no GPU"
    )
    click.echo(
        f"built      {manifest.created} on {record.platform}, {gpu}, in {record.build_s:.1f} s"
    )
    if record.library == "tensorrt_rtx":
        echo(f"for        {seen.targets()}")
    elif record.options.compatibility != "none":
        echo(f"for        --compatibility {record.options.compatibility}")
    for done in record.done:
        echo(f"fallback   {done}")
    _say_loadable(seen)


def _say_backends(seen: Inspection) -> None:
    if not FORMATS[seen.artifact.manifest.kind].is_source:  # an engine or package has its own line
        return
    if seen.needed is not None:
        echo(f"needs      {seen.needed}")
    able = [name for name, reason in seen.backends.items() if reason is None]
    echo(f"runs on    {', '.join(able) or 'nothing here'}")
    for name, reason in seen.backends.items():
        if reason is not None:
            echo(f"not here   {name}: {as_flags(reason)}")


def _say_package(created: str, package: PackageRecord) -> None:
    click.echo(
        f"built      {created} on {package.platform}, by PyTorch {package.torch} for"
        f" {package.device}"
    )
    needs = (
        f"{package.gpu}, compute capability {package.compute_capability}, CUDA {package.cuda}; "
        if package.gpu
        else ""
    )
    click.echo(
        f"for        {needs}{package.cpu_capability} with"
        f" {' '.join(package.cpu_flags) or 'unknown features'}"
    )
    echo(f"kernels    {package.kernels_line()}")
    if package.kernels_from == "fused":
        echo(f"fused      {package.fused_line()}")


def _say_loadable(seen: Inspection) -> None:
    if not seen.findings:
        click.echo("here       this machine can load it")
    for finding in seen.findings:
        hint = f" -> {as_flags(finding.hint)}" if finding.hint else ""
        echo(f"here       cannot be loaded: {as_flags(finding.message)}{hint}")
    for line in seen.remarks:
        echo(f"note       {line}")
    if (command := rebuild_command(seen.artifact, seen.findings, seen.machine)) is not None:
        echo(f"rebuild    {command}")


def rebuild_command(
    artifact: Artifact, findings: tuple[Finding, ...], machine: Machine
) -> str | None:
    """The command that makes an engine or package again for this machine.

    None if that would not help, or the manifest has no request.
    """
    from resnext.runtimes.loading import MADE_AGAIN
    from resnext.runtimes.trt.compatibility import missing_target

    manifest = artifact.manifest
    if manifest.request is None or MADE_AGAIN.isdisjoint(finding.code for finding in findings):
        return None
    # The stored request names its targets: it would build the same engine once more.
    if manifest.engine is not None and missing_target(manifest.engine, machine) is not None:
        return None
    return shlex.join(["resnext-export", "rebuild", str(artifact.directory)])


def _print_layers(manifest: Manifest, delivered: Delivered, *, recorded: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    record = manifest.engine
    if record is not None and recorded:
        # A narrow terminal drops the last columns, but never the precision.
        console = Console()
        shown = (
            3 if console.is_terminal and console.width < 120 else 5 if console.is_terminal else 6
        )
        for heading in ("layer", "kind", "computes in", "inputs", "outputs", "tactic")[:shown]:
            table.add_column(
                heading, no_wrap=True, min_width=11 if heading == "computes in" else None
            )
        for layer in record.layers:
            nodes = ", ".join(layer.nodes) or layer.name
            cells = (
                nodes,
                layer.kind,
                layer.dtype,
                "; ".join(layer.inputs),
                "; ".join(layer.outputs),
                layer.tactic,
            )
            table.add_row(*map(printable, cells[:shown]))
    else:
        for heading in ("layer", "operator", "computes in", "on"):
            table.add_column(heading, no_wrap=True)
        for row in delivered.layers:
            table.add_row(
                *map(printable, (", ".join(row.modules) or row.name, row.op, row.dtype, row.device))
            )
    # Cut on a terminal, whole in a pipe, which tools read. Names may look like rich's markup.
    width = None if Console().is_terminal else 400
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def _facts(seen: Inspection) -> dict[str, Any]:
    from resnext.runtimes.loading import MADE_AGAIN

    return {
        "manifest": seen.artifact.manifest.model_dump(mode="json"),
        "loadable_here": not seen.findings,
        "obstacles": [
            {
                "reason": as_flags(finding.message),
                "fix": as_flags(finding.hint),
                "rebuild": finding.code in MADE_AGAIN,
            }
            for finding in seen.findings
        ],
        "remarks": list(seen.remarks),
        "needs": None if seen.needed is None else asdict(seen.needed),
        "rebuild": rebuild_command(seen.artifact, seen.findings, seen.machine),
        "backends": {
            name: None if reason is None else as_flags(reason)
            for name, reason in seen.backends.items()
        },
        "delivered_share": seen.share,
        "delivered_source": seen.source,
        "delivered": [asdict(layer) for layer in seen.delivered.layers],
    }
