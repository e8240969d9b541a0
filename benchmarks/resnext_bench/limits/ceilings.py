"""What this machine can do at most: measured once for each device and number of threads, and kept
in the cache.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from resnext.artifact.specs import Strict
from resnext.errors import SessionFailed, first_line
from resnext.machine.environment import Environment
from resnext.machine.load import Load, Meter
from resnext.readers.strict_json import parse_json
from resnext.runtimes.pt2.record import cpu_flags
from resnext.storage import cache_folder, read_cached, write_cached

from .floors import Ceiling

FORMAT_VERSION = 1
#: Where the ceilings were measured.
Device: TypeAlias = Literal["cpu", "cuda"]

#: Operations and bytes per second that no thread of any processor comes near: a call that seems to
#: has done nothing.
_MOST_OPERATIONS, _MOST_BYTES = 2.5e13, 1e12
#: Seconds after which measuring has hung.
_TIMEOUT_S = 300
#: Limits oneDNN to what a processor with AMX has besides.
_WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}
_Speed: TypeAlias = Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]


class ProductCeiling(Strict):
    """The fastest matrix product of one precision with one instruction set.

    Attributes:
        precision: of its factors: a key of `resnext.precision.NUMERICS`.
        instructions: what computed it, as the library's log names it: ``amx``, ``avx512_vnni``;
            ``tensor cores`` on a GPU.
        operations_per_s: multiplications and additions per second.
    """

    precision: str
    instructions: str
    operations_per_s: _Speed

    @property
    def name(self) -> str:
        """For a report: ``int8 amx``."""
        return f"{self.precision} {self.instructions}"


class MachineCeilings(Strict):
    """The most that a device of one machine has done.

    Attributes:
        format_version: of this file; readers measure again if it is another.
        created: UTC time, ISO 8601.
        machine: processor, cores and GPUs.
        torch: version of PyTorch, whose products these are.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None for a GPU.
        products: fastest product of each precision and instruction set.
        copy_bytes_per_s: bytes read and written by a copy, per second.
        launch_ns: the smallest call of an operator on a CPU; on a GPU, of a kernel in a CUDA graph.
        disturbed: what else used the processors meanwhile; empty if nothing did.
        notes: precisions that could not be measured, and why.
    """

    format_version: Literal[1] = 1
    created: str
    machine: str
    torch: str
    device: Device
    threads: int | None
    products: tuple[ProductCeiling, ...] = Field(min_length=1)
    copy_bytes_per_s: _Speed
    launch_ns: _Speed
    disturbed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def fastest(self, precision: str) -> ProductCeiling:
        """The fastest product of ``precision``. A device that does not compute in it converts, so
        then it is float32's.
        """
        of_it = [one for one in self.products if one.precision == precision]
        of_fp32 = [one for one in self.products if one.precision == "fp32"]
        return max(of_it or of_fp32 or self.products, key=lambda one: one.operations_per_s)

    def ceiling(self, precision: str) -> Ceiling:
        """Operations and bytes per second in ``precision``."""
        return Ceiling(self.fastest(precision).operations_per_s, self.copy_bytes_per_s)


def stored_ceilings(
    environment: Environment,
    device: Device,
    threads: int | None,
    note: Callable[[str], None] = lambda _: None,
) -> MachineCeilings | None:
    """The ceilings in the cache; None if they were not measured on this machine, with this PyTorch.

    Args:
        environment: this machine.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None for a GPU.
        note: called with a line if there is a file that cannot be used.
    """
    path = _path(environment, device, threads)
    if not os.path.lexists(path):
        return None
    data = read_cached(path)
    if data is None:
        note(f"the stored ceilings are damaged: {path}")
        return None
    try:
        parse_json(data)
        stored = MachineCeilings.model_validate_json(data, strict=True)
    except (ValidationError, ValueError):
        note(f"the stored ceilings are not of format version {FORMAT_VERSION}: {path}")
        return None
    key = (stored.machine, stored.torch, stored.device, stored.threads)
    if key != (*_identity(environment), device, threads):
        note(f"the stored ceilings are of another machine: {path}")
        return None
    return stored


def measured_ceilings(
    environment: Environment,
    device: Device,
    threads: int | None,
    note: Callable[[str], None] = lambda _: None,
) -> MachineCeilings:
    """Measure the ceilings, and store them; takes some ten seconds.

    Args:
        environment: this machine.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None for a GPU.
        note: called with a line if they cannot be stored.

    Raises:
        SessionFailed: they cannot be measured, or are impossible.
    """
    meter = Meter()
    before = meter.read()
    found = run_measuring(device, threads)
    # oneDNN can be kept from AMX, which shows what VNNI does.
    if device == "cpu" and "amx_int8" in cpu_flags() and not _WITHOUT_AMX.keys() & os.environ:
        older = run_measuring(device, threads, ("bf16", "int8"), _WITHOUT_AMX)
        found = {**found, "products": [*found["products"], *older["products"]]}
    ceilings = _checked(found, environment, device, threads, meter.since(before))
    path = _path(environment, device, threads)
    try:
        write_cached(path, ceilings.model_dump_json(indent=1).encode() + b"\n")
    except OSError as exc:
        note(f"the ceilings cannot be stored in {path.parent}: {exc.strerror or exc}")
    return ceilings


def run_measuring(
    device: Device,
    threads: int | None,
    precisions: tuple[str, ...] = (),
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run `resnext_bench.limits.measuring` in a process of its own.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None for a GPU.
        precisions: these alone, without copy and launch; empty for all.
        settings: environment variables on top of this process's.

    Raises:
        SessionFailed: it failed, or its answer is none.
    """
    request = json.dumps({"device": device, "threads": threads, "precisions": precisions})
    command = [sys.executable, "-m", "resnext_bench.limits.measuring", request]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "OMP_NUM_THREADS": str(threads or 1),
        **(settings or {}),
    }
    failed = "the ceilings of this machine could not be measured"
    try:
        done = subprocess.run(
            command,
            env=environment,
            # `-m` imports from the working folder first, which may hold anything
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise SessionFailed(f"{failed} in {_TIMEOUT_S} s") from exc
    if done.returncode:
        reason = first_line("\n".join(done.stderr.strip().splitlines()[-1:]) or "no message")
        raise SessionFailed(f"{failed}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _checked(
    found: dict[str, Any],
    environment: Environment,
    device: Device,
    threads: int | None,
    load: Load,
) -> MachineCeilings:
    """What was measured, as a record.

    Raises:
        SessionFailed: a ceiling is missing, not a number, or impossible.
    """
    machine, torch = _identity(environment)
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        ceilings = MachineCeilings(
            created=now.isoformat(timespec="seconds"),
            machine=machine,
            torch=torch,
            device=device,
            threads=threads,
            disturbed=load.disturbances(threads or 1),
            **found,
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SessionFailed(f"the ceilings cannot be right: {field}: {first['msg']}") from exc
    if threads is not None:
        shares = {one.name: one.operations_per_s / _MOST_OPERATIONS for one in ceilings.products}
        shares["copy"] = ceilings.copy_bytes_per_s / _MOST_BYTES
        name, share = max(shares.items(), key=lambda item: item[1])
        if share > threads:
            raise SessionFailed(f"the ceilings cannot be right: {name} is impossibly fast")
    return ceilings


def _identity(environment: Environment) -> tuple[str, str]:
    """Machine and PyTorch, by the version that is installed: the module may add a suffix."""
    return environment.title(), version("torch")


def _path(environment: Environment, device: Device, threads: int | None) -> Path:
    identity = "\n".join(_identity(environment))
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    part = device if threads is None else f"{device}-{threads}"
    return cache_folder() / "ceilings" / f"{name}-{part}.json"
