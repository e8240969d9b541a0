"""GPU acceptance: tests/gpu, then a benchmark in each precision over every backend present; short table last.

    PYTHONPATH=.:export:benchmarks python3 benchmarks/gpu_accept.py --out FOLDER

Ends within eight minutes. Writes FOLDER/pytest.log, FOLDER/accept.json, and benchmark-fp32, benchmark-fp16 and so on
there as .json, .md and .log. Needs an installed Python environment with this project's dependencies, and a CUDA device;
``--rehearse`` runs the same script on a CPU, small. A backend whose library is not installed, or does not take the GPU,
is left out: accept.json and the table say which, and why. Packages (pt2) are tested and not benchmarked: compiling one
for each batch and precision would not fit into the time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import click

from resnext.backends import BACKENDS
from resnext.command import guarded
from resnext.config import PRECISIONS, Precision
from resnext.cuda_driver import Driver, probe_driver
from resnext.errors import GateFailed, MissingRequirement

_ROOT = Path(__file__).resolve().parent.parent
_LIMIT_S = 470
_TESTS_LIMIT_S = 240
#: Tests that may be skipped, by file, and the backends that must all be left out for it.
_SKIPPABLE = {
    "tests/gpu/test_engines.py": ("trt", "trt-rtx"),
    "tests/gpu/test_ort_trt.py": ("ort-trt", "ort-trt-rtx"),
    "tests/gpu/test_pt2.py": ("pt2",),
}
#: What a CPU has; ONNX Runtime's CPU provider computes fp16 graphs in float32, so its row would not be valid.
_REHEARSED: dict[Precision, tuple[str, ...]] = {
    "fp32": ("torch", "torch-compile", "ort-cpu"), "fp16": ("torch", "torch-compile"), "bf16": ("torch",),
    "int8": ("ort-cpu",),
}  # fmt: skip


class Tests(TypedDict):
    """What pytest said."""

    exit_code: int
    closing_line: str
    skipped: list[str]
    unexpected_skips: list[str]


class Benchmark(TypedDict):
    """What resnext-bench said."""

    backends: list[str]
    exit_code: int
    last_line: str


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu-accept"), show_default=True, help="Folder.")
@click.option("--rehearse", is_flag=True, help="Run on a CPU with the small shipped network, to try the script.")
@guarded
def main(out: Path, rehearse: bool) -> None:
    """Run tests and benchmarks, write everything to ``out``, end with a short table."""
    started = time.monotonic()
    driver = probe_driver()
    if driver.problem is not None and not rehearse:
        raise MissingRequirement(f"GPU acceptance needs a CUDA device: {driver.problem}; --rehearse runs without one")
    out.mkdir(parents=True, exist_ok=True)
    left_out = left_out_backends(driver)
    present = ("torch", "torch-compile", "ort-cuda", *(name for name in _ENGINE_BACKENDS if name not in left_out))
    tests = _tests(out, left_out)
    benchmarks: dict[str, Benchmark] = {}
    runs = _REHEARSED if rehearse else runs_for(present)
    for done, (precision, backends) in enumerate(runs.items()):
        left_s = _LIMIT_S - (time.monotonic() - started)
        # A run may take half as much again as its share: the next ones have what it leaves.
        limit_s = max(1, int(min(left_s, 1.5 * left_s / (len(runs) - done))))
        benchmarks[precision] = _benchmark(out, precision, backends, limit_s, rehearse=rehearse)
    facts = {"tests": tests, "benchmarks": benchmarks, "left_out": left_out}
    (out / "accept.json").write_text(json.dumps(facts, indent=1) + "\n")
    _print_table(out, tests, benchmarks, left_out)
    failed = [f"benchmark {name} exit {done['exit_code']}" for name, done in benchmarks.items() if done["exit_code"]]
    if tests["exit_code"] != 0 or (tests["unexpected_skips"] and not rehearse):
        unexpected = tests["unexpected_skips"][:1]
        failed.insert(0, f"tests {tests['closing_line']}{''.join(f' (skipped: {line})' for line in unexpected)}")
    if failed:
        raise GateFailed(f"GPU acceptance failed: {', '.join(failed)}")


def runs_for(present: tuple[str, ...]) -> dict[Precision, tuple[str, ...]]:
    """What to measure in each precision: those of ``present`` that run it; a precision that none runs is left out."""
    able = {
        precision: tuple(name for name in present if precision in BACKENDS[name].precisions) for precision in PRECISIONS
    }
    return {precision: backends for precision, backends in able.items() if backends}


_ENGINE_BACKENDS = ("trt", "trt-rtx", "ort-trt", "ort-trt-rtx")


def left_out_backends(driver: Driver) -> dict[str, str]:
    """The engine backends that cannot run with ``driver``, each with the reason."""
    from resnext.backends import compiles_packages
    from resnext.backends.ort_trt_libraries import load_tensorrt10, plugin_device
    from resnext.passport import serves
    from resnext.trt_flavour import FLAVOURS

    if driver.problem is not None:
        return dict.fromkeys(_ENGINE_BACKENDS, driver.problem)
    found: dict[str, str] = {}
    gpu = driver.gpus[0]
    for kind, flavour in FLAVOURS.items():
        if flavour.version is None:
            found[kind] = f"{flavour.title} is not installed"
        elif not serves(flavour, driver):
            found[kind] = f"{flavour.title} does not take {gpu.name} (compute capability {gpu.compute_capability})"
    try:
        load_tensorrt10()
    except MissingRequirement as exc:
        found["ort-trt"] = str(exc)
    try:
        plugin_device(driver)
    except MissingRequirement as exc:
        found["ort-trt-rtx"] = str(exc)
    if not compiles_packages("cuda"):
        found["pt2"] = "packages need a C++ compiler and the CUDA toolkit (CUDA_HOME)"
    return found


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


def _tests(out: Path, left_out: Mapping[str, str]) -> Tests:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-ra", "-p", "no:cacheprovider"]
    code, text = _run(command, _TESTS_LIMIT_S)
    (out / "pytest.log").write_text(text)
    lines = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed|skipped|error)", line)]
    skipped = skipped_tests(text)
    return {
        "exit_code": code,
        "closing_line": lines[-1] if lines else "no closing line, see pytest.log",
        "skipped": skipped,
        "unexpected_skips": unexpected_skips(skipped, left_out),
    }


def skipped_tests(text: str) -> list[str]:
    """``FILE[:LINE]: REASON`` of each group of skipped tests in pytest's summary."""
    return re.findall(r"^SKIPPED \[\d+\] (.*)$", text, re.MULTILINE)


def unexpected_skips(skipped: list[str], left_out: Mapping[str, str]) -> list[str]:
    """Those of ``skipped`` that no backend in ``left_out`` accounts for; each name of a file has its own backends."""
    found = []
    for line in skipped:
        needed = _SKIPPABLE.get(line.partition(":")[0], ())
        if line.startswith("tests/gpu/test_ort_trt.py"):  # its tests are skipped by backend, each for its own reason
            accounted = any(left_out.get(name) and left_out[name] in line for name in needed)
        else:
            accounted = bool(needed) and all(name in left_out for name in needed)
        if not accounted:
            found.append(line)
    return found


def _benchmark(out: Path, precision: str, backends: tuple[str, ...], limit_s: int, *, rehearse: bool) -> Benchmark:
    # Through a file, not -c: a compiler's worker processes start from the main module again.
    # Named one by one: "all" would leave out in silence what this environment lacks.
    path = (out / f"benchmark-{precision}").resolve()
    command = [sys.executable, "-m", "resnext_bench.command", "--backend", ",".join(backends)]
    command += ["--precision", precision, "--json", f"{path}.json", "--markdown", f"{path}.md"]
    if rehearse:
        command += ["--weights", "digits", "--batch", "1,8", "--duration", "0.3", "--device", "cpu"]
    else:
        command += ["--batch", "1,8,64", "--duration", "1.5", "--device", "cuda"]
        # Seeded weights have no images of their own; speed does not hang on them.
        command += ["--calibration", "random", "--calibration-images", "16"] if precision in ("int8", "fp8") else []
    Path(f"{path}.json").unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    code, text = _run(command, limit_s)
    Path(f"{path}.log").write_text(text)
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return {"backends": list(backends), "exit_code": code, "last_line": last}


def _print_table(out: Path, tests: Tests, benchmarks: Mapping[str, Benchmark], left_out: Mapping[str, str]) -> None:
    click.echo(f"tests      {tests['closing_line']}")
    for line in dict.fromkeys(re.sub(r"\.py:\d+", ".py", line) for line in tests["unexpected_skips"]):
        click.echo(f"skipped    {line}")
    for precision in benchmarks:
        _print_run(out / f"benchmark-{precision}.json", precision)
    for name, reason in left_out.items():
        click.echo(f"left out   {name}: {reason}")


def _print_run(path: Path, precision: str) -> None:
    if not path.is_file():
        click.echo(f"benchmark  {precision} wrote nothing, see {path.with_suffix('.log')}")
        return
    from resnext_bench.report import lines, remarks
    from resnext_bench.result import read_run

    run = read_run(path)
    click.echo(f"machine    {run.environment.title()}, {precision}")
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
