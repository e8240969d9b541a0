"""Measures the claims that this toolkit makes about its own speed, interleaved in one run; fails
where one is missed.

    python benchmarks/check_speed.py [--json PATH]

1. ``--help`` of every command answers in under 0.3 s.
2. Export end to end, check of the written bytes included, takes at most 1.4 times a bare
   ``torch.onnx.export``, and as long as ONNX Runtime takes for the 63 images of the check. The 0.4
   are for a file of 100 MB that is written, validated, hashed, loaded and synchronized.
3. A timed iteration of a session that does nothing takes under 2 us, the session's checks of its
   input included; the harness's own part of it is what remains above a bare loop over the session.
4. ``ort-cpu`` is as fast as a plain onnxruntime loop in a separate process, in at least six
   undisturbed rounds: ratio 1.00 +- 0.02.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from resnext.artifact.files import Artifact
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import record_environment
from resnext.machine.nvml import open_nvml
from resnext.runtimes.registry import open_session
from resnext.testing import FakeSession
from resnext.timing.clock import time_host
from resnext.weights.spec import load_model, load_weights
from resnext_bench.crosscheck.comparison import average
from resnext_bench.crosscheck.run import crosscheck
from resnext_bench.measure import Samples, Subject, visit
from resnext_bench.overhead import harness_ns
from resnext_export import export
from resnext_export.convert.onnx_from_torch import _export

#: Images that the export's check runs, all sizes together (docs/concepts/batch-integrity.md).
CHECK_IMAGES = 63
#: Share of a bare export that is left for everything else.
REST = 0.4
COMMANDS = ("resnext-export", "resnext-bench", "resnext-parity", "resnext-classify")


def help_seconds() -> dict[str, Any]:
    """Wall time of ``--help``, median of 7 for each command, the slowest command's."""
    folder = Path(sys.executable).parent
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7):
        for name in COMMANDS:
            before = time.perf_counter()
            subprocess.run([folder / name, "--help"], check=True, capture_output=True)
            took[name].append(time.perf_counter() - before)
    worst = max(statistics.median(samples) for samples in took.values())
    return {
        "claim": "--help, slowest command",
        "value": worst,
        "unit": "s",
        "limit": "< 0.3",
        "ok": worst < 0.3,
    }


def export_ratio(rounds: int) -> tuple[dict[str, Any], Artifact]:
    """Full export over bare export of ResNeXt-50, paired round by round. The limit has the time of
    an image in the same round, since that depends on the processor in another way than an export.
    """
    weights = load_weights("seeded", "resnext50_32x4d")
    model, example = load_model(weights), torch.zeros(2, 3, 224, 224)
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    folder = Path(tempfile.mkdtemp())
    _export(model, example, dynamic)  # the first of each in a process also imports
    artifact = export(weights, folder)
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 7))
    ratios, limits = [], []
    for _ in range(rounds):
        with open_session(artifact, "ort-cpu") as session:
            session(images)
            image = min(time_host(lambda: session(images), 3)) / 1e9 / len(images)
        before = time.perf_counter()
        _export(model, example, dynamic)
        bare = time.perf_counter() - before
        before = time.perf_counter()
        artifact = export(weights, folder, force=True)
        ratios.append((time.perf_counter() - before) / bare)
        limits.append(1 + REST + CHECK_IMAGES * image / bare)
    ratio, limit = statistics.median(ratios), statistics.median(limits)
    claim = {
        "claim": "export with check / bare torch.onnx.export",
        "value": ratio,
        "unit": "x",
        "limit": f"<= {limit:.2f}",
    }
    return {**claim, "ok": ratio <= limit, "samples": ratios, "limits": limits}, artifact


def harness_overhead() -> list[dict[str, Any]]:
    """Median time of one timed iteration of a session that does nothing, and how much of it is the
    harness's.
    """
    samples = Samples()
    session, inputs = FakeSession(), {"input": np.zeros((1, 1), np.float32)}
    subject = Subject(session, inputs, session.bind(inputs))
    visit(subject, samples, 20000)
    return [
        {"claim": claim, "value": value, "unit": "us", "limit": "< 2", "ok": value < 2}
        for claim, value in (
            (
                "iteration of a session that does nothing",
                statistics.median(samples.host_ns[0]) / 1e3,
            ),
            ("of it the harness, against a bare loop", harness_ns(session, 20000) / 1e3),
        )
    ]


def ort_ratio(artifact: Artifact, rounds: int) -> dict[str, Any]:
    """The ``ort-cpu`` session against a plain loop over onnxruntime, by `crosscheck`."""
    checked, errors = crosscheck(artifact, tool="onnxruntime", rounds=rounds)
    if errors:
        raise errors[0]
    (comparison,) = checked.comparisons
    ours, theirs = average(comparison)
    ratio = theirs / ours if comparison.ratio is None else 1 / comparison.ratio[0]
    claim = {
        "claim": "ort-cpu speed / plain onnxruntime loop",
        "value": ratio,
        "unit": "x",
        "limit": "1.00 +- 0.02",
    }
    samples = [each.theirs_ns / each.ours_ns for each in comparison.quiet]
    ok = comparison.ratio is not None and abs(ratio - 1) <= 0.02
    return {**claim, "ok": ok, "samples": samples, "rounds": len(comparison.rounds)}


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Also write the results here."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Paired exports."
)
def main(path: Path | None, rounds: int) -> None:
    """Measure every claim, print a table, exit 1 where one is missed."""
    with open_nvml() as nvml:
        environment = record_environment(nvml)
    first, artifact = export_ratio(rounds)
    results = [help_seconds(), first, *harness_overhead(), ort_ratio(artifact, max(rounds, 6))]
    click.echo(f"{environment.title()}, load {environment.load_1min:.2f} at the start")
    for result in results:
        verdict = "ok" if result["ok"] else "MISSED"
        click.echo(
            f"{result['claim']:44} {result['value']:8.3f} {result['unit']:2}  {result['limit']:12} "
            f" {verdict}"
        )
    if path is not None:
        path.write_text(
            json.dumps({"environment": environment.model_dump(), "results": results}, indent=1)
            + "\n"
        )
    if not all(result["ok"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
