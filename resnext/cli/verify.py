"""The command ``resnext-parity verify``: does the verdict beside an artifact still hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resnext.storage import check_writable, write_text

from .app import SETTINGS, echo, guarded
from .options import json_option, trust_options
from .sections import SectionedCommand

if TYPE_CHECKING:
    from resnext.verify.parity import Parity
    from resnext.verify.verdict import Verdict

_EPILOG = """\b
Examples:
  resnext-parity --artifact out/ --verdict     judge, and store the verdict
  resnext-parity verify out/                   read it back; nothing is run
  resnext-parity verify out/ --require-signature --trust ci.pub
Exit code 0: it holds. 1: it did not pass, is older than the artifact, or was reached on
another runtime or device. 4: a byte differs, or there is no verdict.
"""


@click.command("verify", cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@json_option("Write the verdict as JSON")
@guarded
@trust_options
def verify(path: Path, json_path: str | None) -> None:
    """Check that the verdict beside an artifact still holds: for these bytes, on this machine.

    Compares digests of file, manifest, weights and verdict, versions of the runtime, and GPU or CPU
    capability. Runs nothing.
    """
    from resnext.verify.verdict import verify_artifact

    check_writable(json_path)
    verdict = verify_artifact(path)
    if json_path != "-":
        _print(path, verdict)
    if json_path is not None:
        write_text(json_path, verdict.to_json())


def _print(path: Path, verdict: Verdict) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in verdict.libraries.items())
    echo(f"HOLDS  {path} on {verdict.runtime} ({versions})")
    echo(f"  sha256          {verdict.artifact_sha256}")
    echo(f"  judged          {verdict.created} on {verdict.device}: {verdict.capability}")
    echo(f"  parity          {_parity(verdict.parity)}")
    scope = "the cheap half" if verdict.integrity.quick else "in full"
    echo(f"  batch integrity ok, {scope}")
    for line in measured(verdict):
        echo(f"  {line}")


def _parity(parity: Parity) -> str:
    ordinary, *extreme = parity.inputs
    count = sum(each.images for each in extreme)
    return (
        f"max error {parity.max_error:.2e} of the logits' RMS, gate {parity.gate};"
        f" {parity.rows} {ordinary.name} images, {count} adversarial"
    )


def measured(verdict: Verdict) -> list[str]:
    """Lines for delivered precision and time, as far as the runtime has them."""
    lines = []
    if (record := verdict.delivered) is not None:
        missed = ", ".join(f"{name} {dtype}" for name, dtype in record.missed[:3])
        more = f" and {len(record.missed) - 3} more" if len(record.missed) > 3 else ""
        lines.append(
            f"delivered       {record.share:.1%} of convolution and product FLOPs in the requested"
            f" precision{missed and '; not in ' + missed + more}"
        )
    if (timing := verdict.timing) is not None:
        lines.append(
            f"time            {timing.median_ns / 1e6:.3f} ms, batch {timing.batch}, boundary"
            f" {timing.boundary}"
        )
    return lines
