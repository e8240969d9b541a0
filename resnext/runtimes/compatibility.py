"""Whether a machine can load an artifact, decided from the manifest before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

from resnext.artifact.manifest import Manifest
from resnext.findings import Finding
from resnext.machine.machine import Machine, this_machine
from resnext.runtimes.pt2 import record as packages
from resnext.runtimes.pt2.record import this_host
from resnext.runtimes.trt import compatibility as engines
from resnext.runtimes.trt.library import library_of


def machine_for(manifest: Manifest, machine: Machine | None = None) -> Machine:
    """``machine``, completed with the facts that the artifact of ``manifest`` depends on.

    Args:
        manifest: the artifact's manifest.
        machine: driver and platform; None asks this machine.
    """
    machine = machine or this_machine()
    if manifest.engine is not None:
        machine = engines.with_library(machine, library_of(manifest.engine.library))
    return machine if manifest.package is None else replace(machine, host=this_host())


def loadable(manifest: Manifest, machine: Machine) -> tuple[Finding, ...]:
    """Why ``machine`` (from `machine_for`) cannot load the artifact of ``manifest``; empty if
    nothing is known against it. ONNX and OpenVINO files load on every machine.
    """
    if manifest.package is not None:
        assert machine.host is not None  # set by `machine_for`
        return packages.loadable(manifest, machine.host)
    return () if manifest.engine is None else engines.loadable(manifest, machine)
