"""The command ``resnext-export inspect``: an artifact's passport, and what its layers really
got.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resnext.cli.app import SETTINGS, OneLineCommand, as_flags, guarded, printable
from resnext.cli.options import json_option
from resnext.cli.params import NameType
from resnext.precision import NUMERICS
from resnext.runtimes.registry import REFERENCE, RUNTIMES
from resnext.storage import check_writable, write_text

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest
    from resnext.artifact.records import PackageRecord
    from resnext.findings import Finding
    from resnext.machine.machine import Machine
    from resnext.runtimes.session import Delivered

_EPILOG = """\b
Examples:
  resnext-export inspect engine/                        passport, loadable here or not, layers
  resnext-export inspect engine/ --require-delivered 0.99  exit 1 if the precision was not delivered
  resnext-export inspect engine/ --require-loadable     exit 3 if this machine cannot load it
  resnext-export inspect out/ --backend ort-cpu         what ONNX Runtime makes of each layer
An engine's or package's manifest is read before anything is loaded; --backend asks the session.
"""


@click.command("inspect", cls=OneLineCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    type=NameType("backend", tuple(RUNTIMES)),
    metavar="NAME",
    help=(
        "Open the artifact on this backend and ask it.  [default: an engine's or package's"
        " manifest, else ort or openvino]"
    ),
)
@click.option(
    "--require-delivered",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit 1 where less of the convolution and product FLOPs got the precision asked for.",
)
@click.option("--require-loadable", is_flag=True, help="Exit 3 where this machine cannot load it.")
@click.option(
    "--layers/--no-layers", "show_layers", default=True, help="Print every layer.  [default: on]"
)
@json_option("Write passport, obstacles and layers as JSON")
@guarded
def inspect(
    path: Path,
    backend: str | None,
    require_delivered: float | None,
    require_loadable: bool,
    show_layers: bool,
    json_path: str | None,
) -> None:
    """Say what an artifact is, whether this machine can load it, and what precision each layer got.

    Where an engine or package does not load here, say why, and how to make one that does.
    """
    check_writable(json_path)
    from resnext.artifact.files import read_artifact
    from resnext.artifact.onnx_precision import check_onnx_precision
    from resnext.errors import GateFailed, MissingRequirement, UsageError
    from resnext.runtimes.compatibility import loadable, machine_for
    from resnext.runtimes.pt2.package import check_package_bytes
    from resnext.runtimes.registry import runtime_named
    from resnext.runtimes.trt.compatibility import remarks
    from resnext.runtimes.trt.identity import check_engine_bytes

    artifact = read_artifact(path)
    check_engine_bytes(artifact)
    check_onnx_precision(artifact)
    if backend is not None and require_delivered is not None and runtime_named(backend).live:
        raise UsageError(
            f"{backend} runs the live model and does not look at the file; drop --require-delivered"
        )
    check_package_bytes(artifact)
    manifest = artifact.manifest
    machine = machine_for(manifest)
    found, noted = loadable(manifest, machine), remarks(manifest, machine)
    delivered, source = _delivered(artifact, backend)
    share = share_of(manifest, delivered)
    if json_path is not None:
        write_text(
            json_path,
            json.dumps(_facts(artifact, machine, delivered, source, share), indent=2) + "\n",
        )
    if json_path != "-":
        _say(artifact, found, noted, machine)
        _say_backends(manifest)
        click.echo(f"delivered  {_share_line(manifest, delivered, share)} ({source})")
        if show_layers:
            _print_layers(manifest, delivered, recorded=backend is None)
    if require_loadable and found:
        raise MissingRequirement(f"{artifact.path} does not load here: {found[0].message}")
    if require_delivered is not None and share < require_delivered:
        raise GateFailed(
            f"{artifact.path} delivers {manifest.precision} to {share:.2%} of its convolution and"
            f" product FLOPs, {require_delivered:.2%} were required"
        )


def share_of(manifest: Manifest, delivered: Delivered) -> float:
    """Share (0 to 1) of convolution and product FLOPs that got what the artifact's precision
    means.
    """
    from resnext.verify.delivered import delivered_share

    return sum(
        delivered_share(delivered, manifest.config, dtype)
        for dtype in NUMERICS[manifest.numerics].compute_dtypes
    )


def delivered_line(manifest: Manifest) -> str:
    """One line on what an engine's layers got, as its manifest records it."""
    from resnext.runtimes.delivered import delivered_from_engine

    record = manifest.engine
    assert record is not None
    delivered = delivered_from_engine(record.layers, record.gpu or "ahead of time")
    return (
        f"{_share_line(manifest, delivered, share_of(manifest, delivered))} ({record.layers_from})"
    )


def _share_line(manifest: Manifest, delivered: Delivered, share: float) -> str:
    from resnext.verify.delivered import undelivered

    wanted = NUMERICS[manifest.numerics].compute_dtypes
    text = f"{' or '.join(wanted)} in {share:.1%} of convolution and product FLOPs"
    missed = undelivered(delivered, manifest.config, wanted[0]) if share < 1 else ()
    missed = tuple(entry for entry in missed if entry[1] not in wanted)
    if missed:
        some = ", ".join(f"{name} {got}" for name, got in missed[:3])
        text += f"; not in {some}" + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
    return text


def _delivered(artifact: Artifact, backend: str | None) -> tuple[Delivered, str]:
    from resnext.progress import working
    from resnext.runtimes.delivered import delivered_from_engine, delivered_from_package

    record, package = artifact.manifest.engine, artifact.manifest.package
    if record is not None and backend is None:
        found = delivered_from_engine(record.layers, record.gpu or "ahead of time")
        return found, f"from the manifest, {record.layers_from}"
    if package is not None and backend is None:
        found = delivered_from_package(package, package.gpu or package.device)
        return found, f"from the manifest, {found.notes['layers from']}"
    from resnext.runtimes.availability import require
    from resnext.runtimes.registry import (
        SessionOptions,
        check_subject,
        natural_runtime,
        open_session,
        runtime_named,
    )
    from resnext.runtimes.session import Delivered as Unasked
    from resnext.verify.check import artifact_weights

    name = backend or natural_runtime(artifact)
    if backend is None and artifact.manifest.precision not in runtime_named(name).precisions:
        return (
            Unasked("nowhere", ()),
            f"not asked: {name} does not run {artifact.manifest.precision}",
        )
    subject: Any = artifact
    precision = artifact.manifest.precision
    live = runtime_named(name).live
    if not live:
        check_subject(name, artifact)
    require(name, given=True)
    if live:
        subject = artifact_weights(artifact)
    with (
        working(f"asking {name}"),
        open_session(subject, name, options=SessionOptions(precision=precision)) as session,
    ):
        if record is not None or name.startswith("torch"):
            _bind_smallest(artifact, session, live_model=record is None)
        return session.delivered(), f"asked of {name}, running"


def _bind_smallest(artifact: Artifact, session: Any, *, live_model: bool) -> None:
    import numpy as np

    from resnext.artifact.specs import numpy_dtype

    manifest = artifact.manifest
    spec = session.inputs[0]
    batch = 1 if live_model else manifest.batch.min
    session.bind({spec.name: np.zeros((batch, *spec.shape[1:]), numpy_dtype(spec.dtype))})


def _say(
    artifact: Artifact, found: tuple[Finding, ...], noted: tuple[str, ...], machine: Machine
) -> None:
    from resnext.runtimes.trt.library import RTX_DEFAULT_TARGETS
    from resnext_export.derivation import derivation

    manifest, record = artifact.manifest, artifact.manifest.engine
    library = f"opset {manifest.opset}" if record is None else f"{record.library} {record.version}"
    library = library if manifest.package is None else manifest.package.title()
    click.echo(
        f"artifact   {artifact.path}  ({manifest.file_size_bytes / 1e6:.1f} MB, {manifest.kind},"
        f" {library})"
    )
    click.echo(f"sha256     {manifest.file_sha256}")
    click.echo(
        f"model      {manifest.model or 'custom'}, weights {manifest.weights.source},"
        f" {manifest.precision}"
    )
    click.echo(f"batch      {manifest.batches()}")
    parity = "none recorded"
    if manifest.check is not None:
        sizes = ", ".join(map(str, manifest.check.batches))
        parity = (
            f"ok on {manifest.check.backend} when made, batch {sizes}: max error"
            f" {manifest.check.max_error:.1e}"
        )
    click.echo(f"parity     {parity}")
    for line in derivation(manifest):
        click.echo(f"{line[:10]} {line[10:]}")
    if manifest.package is not None:
        _say_package(manifest.created, manifest.package)
        _say_loadable(artifact, found, noted, machine)
    if record is None:
        return
    where = (
        f"{record.gpu} (compute capability {record.compute_capability})" if record.gpu else "no GPU"
    )
    click.echo(
        f"built      {manifest.created} on {record.platform}, {where}, in {record.build_s:.1f} s"
    )
    if record.library == "tensorrt_rtx":
        click.echo(f"for        {', '.join(record.options.targets) or RTX_DEFAULT_TARGETS}")
    elif record.options.compatibility != "none":
        click.echo(f"for        --compatibility {record.options.compatibility}")
    for done in record.done:
        click.echo(f"fallback   {done}")
    _say_loadable(artifact, found, noted, machine)


def backends_here(manifest: Manifest, found: tuple[Finding, ...]) -> dict[str, str | None]:
    """The backends that run artifacts of this kind and precision, each with what keeps it from
    running here, or None.

    Of an ONNX file those are named that run the file itself; an engine is another artifact.
    """
    from resnext.runtimes.availability import available

    able = [
        name
        for name, known in RUNTIMES.items()
        if manifest.kind in (known.formats[0], name)
        and name not in ("ort", REFERENCE)  # an alias, and one that runs everything
        and manifest.precision in known.precisions
    ]
    # What keeps an engine or package from loading keeps it from running on any of them.
    if found:
        return dict.fromkeys(able, found[0].message)
    answers = {name: available(name, given=True) for name in able}
    return {
        name: None if answer is None else as_flags(str(answer)) for name, answer in answers.items()
    }


def _say_backends(manifest: Manifest) -> None:
    if manifest.kind != "onnx":  # an engine or a package has its own line
        return
    found = backends_here(manifest, ())
    click.echo(
        "runs on   "
        f" {', '.join(name for name, reason in found.items() if reason is None) or 'nothing here'}"
    )
    for name, reason in found.items():
        if reason is not None:
            click.echo(f"not here   {name}: {reason}")


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
        f" {' '.join(package.cpu_flags) or 'features not known'}"
    )
    click.echo(f"kernels    {package.kernels_line()}")


def _say_loadable(
    artifact: Artifact, found: tuple[Finding, ...], noted: tuple[str, ...], machine: Machine
) -> None:
    if not found:
        click.echo("here       this machine can load it")
    for finding in found:
        hint = f" -> {as_flags(finding.hint)}" if finding.hint else ""
        click.echo(f"here       cannot be loaded: {finding.message}{hint}")
    for line in noted:
        click.echo(f"note       {line}")
    if (command := rebuild_command(artifact, found, machine)) is not None:
        click.echo(f"rebuild    {command}")


def rebuild_command(artifact: Artifact, found: tuple[Finding, ...], machine: Machine) -> str | None:
    """The command that makes an engine or package again, for this machine; None if that would not
    help, or the manifest has no request.
    """
    from resnext.runtimes.loading import MADE_AGAIN
    from resnext.runtimes.trt.compatibility import missing_target

    manifest = artifact.manifest
    if manifest.request is None or MADE_AGAIN.isdisjoint(finding.code for finding in found):
        return None
    # The stored request names its targets: it would build the same engine once more.
    if manifest.engine is not None and missing_target(manifest.engine, machine) is not None:
        return None
    return shlex.join(["resnext-export", "rebuild", str(artifact.directory)])


def _print_layers(manifest: Manifest, delivered: Delivered, *, recorded: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    record = manifest.engine
    if record is not None and recorded:
        # The last ones go first where a terminal is too narrow for them all; the precision never
        # does.
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
    # Cut on a terminal, whole in a pipe: there, lines are for tools. Names may look like rich's
    # markup.
    width = None if Console().is_terminal else 400
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def _facts(
    artifact: Artifact, machine: Machine, delivered: Delivered, source: str, share: float
) -> dict[str, Any]:
    from dataclasses import asdict

    from resnext.runtimes.compatibility import loadable
    from resnext.runtimes.loading import MADE_AGAIN
    from resnext.runtimes.trt.compatibility import remarks

    manifest = artifact.manifest
    found = loadable(manifest, machine)
    return {
        "manifest": manifest.model_dump(mode="json"),
        "loadable_here": not found,
        "obstacles": [
            {
                "reason": finding.message,
                "fix": as_flags(finding.hint),
                "rebuild": finding.code in MADE_AGAIN,
            }
            for finding in found
        ],
        "remarks": list(remarks(manifest, machine)),
        "rebuild": rebuild_command(artifact, found, machine),
        "backends": backends_here(manifest, found),
        "delivered_share": share,
        "delivered_source": source,
        "delivered": [asdict(layer) for layer in delivered.layers],
    }
