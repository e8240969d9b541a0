"""Why a runtime cannot run on this machine, asked before anything is exported or compiled."""

from __future__ import annotations

from importlib.util import find_spec

from resnext.errors import MissingRequirement, UsageError
from resnext.findings import Finding
from resnext.machine.machine import Machine, this_machine
from resnext.runtimes.trt.library import library_for

from .registry import (
    LOCAL_RUNTIMES,
    Device,
    check_device,
    import_problem,
    load_door,
    no_package,
    runtime_named,
)


def available(
    name: str, device: Device = "auto", *, prebuilt: bool = False, machine: Machine | None = None
) -> Finding | None:
    """Why runtime ``name`` cannot run here. Exports, compiles and loads nothing to find out.

    An existing artifact has further conditions (`resnext.runtimes.compatibility.loadable`).

    Args:
        name: a key of `RUNTIMES`.
        device: device to run on; ``auto`` is the best that the runtime has here.
        prebuilt: whether the engine or package to run exists already: then a package needs no
            compiler, and an engine may be for a GPU that the builder does not support by default.
        machine: driver and platform; None asks this machine.

    Returns:
        What is missing, and what to do; None if nothing is known against it.

    Raises:
        UnknownName: no such runtime.
    """
    runtime = runtime_named(name)
    try:
        check_device(name, device)
        if find_spec(runtime.package) is None:
            return no_package(name, runtime.package)
        return load_door(name).available(name, device, machine or this_machine(), prebuilt=prebuilt)
    except (UsageError, MissingRequirement) as exc:
        return Finding("not-available", exc.message, exc.hint)
    except (ImportError, OSError) as exc:
        return import_problem(name, exc)


def require(
    name: str, device: Device = "auto", *, prebuilt: bool = False, machine: Machine | None = None
) -> None:
    """Check that nothing is known against runtime ``name`` here; arguments as for `available`.

    Raises:
        UsageError: there is no such runtime, or it never runs on ``device``.
        MissingRequirement: something is missing; the hint says what to do.
    """
    if problem := available(name, device, prebuilt=prebuilt, machine=machine):
        check_device(name, device)  # a wrong use, which no other machine would cure
        raise MissingRequirement(problem.message, hint=problem.hint)


def available_runtimes(device: Device = "auto") -> tuple[str, ...]:
    """Every runtime that can run here on ``device``, each library and device once.

    Aliases are skipped, and so are the reference evaluator, which is not meant to be fast, and
    servers.
    """
    machine = this_machine()
    return tuple(
        name
        for name in LOCAL_RUNTIMES
        if not _skipped(name) and available(name, device, machine=machine) is None
    )


def _skipped(name: str) -> bool:
    if name == "trt":  # or TensorRT-RTX, if only that is installed
        try:
            return library_for("trt").kind != "trt"
        except MissingRequirement:
            return False
    return name in ("ort", "onnx-reference")
