"""Which machines can load an engine, according to the libraries' documentation."""

from __future__ import annotations

from dataclasses import replace

from resnext.artifact.manifest import Manifest
from resnext.artifact.records import EngineRecord
from resnext.findings import Finding
from resnext.machine.cuda_driver import Driver
from resnext.machine.machine import Machine
from resnext.runtimes.loading import again

from .library import RTX_DEFAULT_TARGETS, RTX_TARGETS, Library, library_of


def with_library(machine: Machine, library: Library) -> Machine:
    """``machine`` with the installed version of ``library``."""
    return replace(machine, version=library.version, cuda=library.cuda)


def loadable(manifest: Manifest, machine: Machine) -> tuple[Finding, ...]:
    """Why ``machine`` cannot load the engine of ``manifest``; empty if nothing is known against it.

    TensorRT needs the version, compute capability and platform of the build; an engine can be built
    for later versions, or for all GPUs from Ampere on. TensorRT-RTX needs the same version, and a
    GPU among the targets.
    """
    record = manifest.engine
    assert record is not None
    library = library_of(record.library)
    remedy = _again(manifest, machine)
    findings = [*_library(record, library, machine, remedy), *_driver(record, machine)]
    if library.kind == "trt" and machine.platform != record.platform:
        reason = f"it was built on {record.platform}, this is {machine.platform}"
        findings.append(Finding("other-platform", reason, remedy))
    if machine.driver.problem is None:
        findings += _gpu(record, machine, remedy)
    if record.options.strip_weights and not record.refitted:
        findings.append(
            Finding(
                "stripped-weights",
                "its weights were stripped",
                "put weights in with refit, on a machine with a GPU",
            )
        )
    return tuple(findings)


def remarks(manifest: Manifest, machine: Machine) -> tuple[str, ...]:
    """Caveats of an engine that does load."""
    record, gpus = manifest.engine, machine.driver.gpus
    if (
        record is None
        or not gpus
        or record.gpu in (None, gpus[0].name)
        or record.library != "tensorrt"
    ):
        return ()
    return (
        f"its kernels were chosen on {record.gpu}; on {gpus[0].name} they may not be the fastest",
    )


def serves(library: Library, driver: Driver) -> bool:
    """Whether ``library`` can build engines here and run them on the first GPU of ``driver``."""
    if driver.problem is not None or not driver.gpus:
        return False
    return library.kind == "trt" or _rtx_serves(_numbers(driver.gpus[0].compute_capability))


def missing_target(record: EngineRecord, machine: Machine) -> str | None:
    """The target that a TensorRT-RTX engine lacks for the first GPU of ``machine``, for example
    ``sm_86``; None if the engine fits, or is one of TensorRT.
    """
    if record.library != "tensorrt_rtx" or not machine.driver.gpus:
        return None
    capability = machine.driver.gpus[0].compute_capability
    target = f"sm_{capability.replace('.', '')}"
    targets = record.options.targets
    fits = target in targets if targets else _rtx_serves(_numbers(capability))
    return None if fits else target


def _again(manifest: Manifest, machine: Machine) -> str:
    assert manifest.engine is not None
    target = missing_target(manifest.engine, machine)  # the stored request lacks it, too
    if target is not None and target in RTX_TARGETS:
        return f"export it again, with target {target}"
    return again(manifest)


def _library(
    record: EngineRecord, library: Library, machine: Machine, remedy: str
) -> list[Finding]:
    install = f"pip install {library.package}=={record.version}"
    if machine.version is None:
        return [Finding("not-installed", f"{library.title} is not installed", install)]
    installed, built = _numbers(machine.version), _numbers(record.version)
    later_is_fine = record.options.compatibility == "version" and installed >= built
    if installed == built or later_is_fine:
        return []
    reason = f"it was built by {library.title} {record.version}, installed is {machine.version}"
    return [Finding("other-version", reason, f"{install}, or {remedy}")]


def _driver(record: EngineRecord, machine: Machine) -> list[Finding]:
    if machine.driver.problem is not None:
        remedy = "run it on a machine with an NVIDIA GPU and driver"
        return [Finding("no-driver", machine.driver.problem, remedy)]
    offered, needed = machine.driver.cuda_version, machine.cuda or record.cuda
    if offered is None or needed is None or _numbers(offered)[0] >= needed:
        return []
    reason = f"the driver serves CUDA {offered}, the library needs CUDA {needed}"
    return [Finding("old-driver", reason, "install a newer driver")]


def _gpu(record: EngineRecord, machine: Machine, remedy: str) -> list[Finding]:
    gpu = machine.driver.gpus[0]
    capability = _numbers(gpu.compute_capability)
    target = missing_target(record, machine)
    if record.library == "tensorrt_rtx":
        fits, built = target is None, ", ".join(record.options.targets) or RTX_DEFAULT_TARGETS
    elif record.options.compatibility == "ampere+":
        fits, built = capability >= (8, 0), "Ampere and later"
    else:
        fits = gpu.compute_capability == record.compute_capability
        built = f"compute capability {record.compute_capability}"
    if fits:
        return []
    reason = f"it was built for {built}, {gpu.name} has {gpu.compute_capability}"
    if target is not None and target not in RTX_TARGETS and not _rtx_serves(capability):
        remedy = "TensorRT-RTX does not take this GPU: export an engine of TensorRT, format trt"
        return [Finding("unsupported-gpu", reason, remedy)]
    return [Finding("other-gpu", reason, remedy)]


def _rtx_serves(capability: tuple[int, ...]) -> bool:
    """Whether a TensorRT-RTX engine without targets runs on that compute capability; see
    RTX_DEFAULT_TARGETS.
    """
    return capability in ((8, 0), (8, 6), (8, 9)) or capability >= (12, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
