"""GPU acceptance: tests/gpu, then a benchmark over every backend present, in under eight minutes; short table last.

    PYTHONPATH=.:export:benchmarks python3 benchmarks/gpu_accept.py --out FOLDER

Writes FOLDER/pytest.log, FOLDER/accept.json, FOLDER/benchmark.json and FOLDER/benchmark.md. Needs an installed Python
environment with this project's dependencies, and a CUDA device; ``--rehearse`` runs the same script on a CPU, small.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click

from resnext.command import guarded
from resnext.cuda_driver import probe_driver
from resnext.errors import GateFailed, MissingRequirement

_ROOT = Path(__file__).resolve().parent.parent
_TESTS_LIMIT_S = 240
_BENCH_LIMIT_S = 230


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu-accept"), show_default=True, help="Folder.")
@click.option("--rehearse", is_flag=True, help="Run on a CPU with the small shipped network, to try the script.")
@guarded
def main(out: Path, rehearse: bool) -> None:
    """Run tests and benchmark, write everything to ``out``, end with a short table."""
    driver = probe_driver()
    if driver.problem is not None and not rehearse:
        raise MissingRequirement(f"GPU acceptance needs a CUDA device: {driver.problem}; --rehearse runs without one")
    out.mkdir(parents=True, exist_ok=True)
    tests = _tests(out)
    bench = _benchmark(out, rehearse=rehearse)
    (out / "accept.json").write_text(json.dumps({"tests": tests, "benchmark": bench}, indent=1) + "\n")
    _print_table(out, tests)
    skipped = "skipped" in str(tests["closing_line"]) and not rehearse
    if skipped or tests["exit_code"] != 0 or bench["exit_code"] != 0:
        raise GateFailed(f"GPU acceptance failed: tests {tests['closing_line']}, benchmark exit {bench['exit_code']}")


def _environment() -> dict[str, str]:
    paths = [str(_ROOT / part) for part in (".", "export", "benchmarks")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}


def _run(command: list[str], limit_s: int) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=_environment(), capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        so_far: object = exc.stdout  # bytes, text or None, whatever text=True promised
        so_far = so_far.decode(errors="replace") if isinstance(so_far, bytes) else so_far or ""
        return 124, f"{so_far}\nstopped after {limit_s} s"
    return done.returncode, done.stdout + done.stderr


def _tests(out: Path) -> dict[str, int | str]:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    code, text = _run(command, _TESTS_LIMIT_S)
    (out / "pytest.log").write_text(text)
    lines = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed|skipped|error)", line)]
    return {"exit_code": code, "closing_line": lines[-1] if lines else "no closing line, see pytest.log"}


def _benchmark(out: Path, *, rehearse: bool) -> dict[str, int | str]:
    # Through a file, not -c: a compiler's worker processes start from the main module again.
    # Named one by one: "all" would leave out in silence what this environment lacks.
    backends = "torch,torch-compile,ort-cpu" if rehearse else "torch,torch-compile,ort-cuda"
    command = [sys.executable, "-m", "resnext_bench.command", "--backend", backends]
    command += ["--json", str((out / "benchmark.json").resolve())]
    command += ["--markdown", str((out / "benchmark.md").resolve())]
    if rehearse:
        command += ["--weights", "digits", "--batch", "1,8", "--duration", "0.3", "--device", "cpu"]
    else:
        command += ["--batch", "1,8,64", "--duration", "2", "--device", "cuda"]
    code, text = _run(command, _BENCH_LIMIT_S)
    (out / "benchmark.log").write_text(text)
    return {"exit_code": code, "last_line": text.strip().splitlines()[-1] if text.strip() else ""}


def _print_table(out: Path, tests: dict[str, int | str]) -> None:
    click.echo(f"tests      {tests['closing_line']}")
    path = out / "benchmark.json"
    if not path.is_file():
        click.echo(f"benchmark  wrote nothing, see {out / 'benchmark.log'}")
        return
    from resnext_bench.report import lines, remarks
    from resnext_bench.result import read_run

    run = read_run(path)
    click.echo(f"machine    {run.environment.title()}")
    for row in run.rows:
        for cells in lines(row):
            backend, batch, boundary, median, _, _, rate, speedup, *_, error, _, verdict = cells
            click.echo(
                f"{backend:22} {batch:>3} {boundary:7} {median:>9} ms {rate:>10} /s {speedup:>9} {error:>8}  {verdict}"
            )
    for line in remarks(run):
        click.echo(line)


if __name__ == "__main__":
    main()
