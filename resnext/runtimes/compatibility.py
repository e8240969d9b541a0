"""Can this machine load that engine or package? Answered from the manifest alone, before anything
is deserialised.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace

from resnext.artifact.manifest import Manifest
from resnext.artifact.records import EngineOptions, EngineRecord
from resnext.errors import MissingRequirement
from resnext.machine.cuda_driver import Driver, probe_driver
from resnext.network.config import VARIANTS
from resnext.runtimes.pt2.record import Host, this_host
from resnext.runtimes.pt2.record import obstacles as package_obstacles
from resnext.runtimes.trt.library import (
    RTX_DEFAULT_TARGETS,
    RTX_TARGETS,
    Flavour,
    flavour_of,
    this_platform,
)


@dataclass(frozen=True)
class Machine:
    """What an engine meets.

    Attributes:
        driver: what the driver answered.
        version: version of the engine's library that is installed, or None.
        cuda: major version of CUDA that the installed library was built for, or None where that is
            not known.
        platform: as ``linux-x86_64``.
        host: what a package meets; None where nobody asked, since it takes importing PyTorch.
    """

    driver: Driver
    version: str | None
    cuda: int | None
    platform: str
    host: Host | None = None


@dataclass(frozen=True)
class Obstacle:
    """One reason why an engine does not load.

    Attributes:
        reason: what does not fit.
        fix: what to do about it; "" where only building the engine anew helps.
        rebuild: whether an engine that is built anew, on or for this machine, would load.
    """

    reason: str
    fix: str = ""
    rebuild: bool = True


def this_machine(flavour: Flavour) -> Machine:
    """What an engine of ``flavour`` meets here."""
    return Machine(probe_driver(), flavour.version, flavour.cuda, this_platform())


def machine_for(manifest: Manifest) -> Machine:
    """What the artifact of ``manifest`` meets here."""
    machine = this_machine(
        flavour_of(manifest.engine.library if manifest.engine is not None else "tensorrt_rtx")
    )
    return machine if manifest.package is None else replace(machine, host=this_host())


def obstacles(manifest: Manifest, machine: Machine) -> tuple[Obstacle, ...]:
    """Why ``machine`` cannot load the engine or package of ``manifest``; empty where nothing is
    known against it.

    The rules are those of the libraries' documents on engine compatibility. TensorRT: the same
    version (or a later one, if asked for when it was built), compute capability (or any from Ampere
    on, likewise) and platform. TensorRT-RTX: the same version, and a GPU among the targets. A
    package's are in `resnext.runtimes.pt2.record`.
    """
    record = manifest.engine
    if manifest.package is not None:
        return _of_package(manifest, machine)
    if record is None:
        return ()
    flavour = flavour_of(record.library)
    found = [*_library(record, flavour, machine), *_driver(record, machine)]
    if flavour.kind == "trt" and machine.platform != record.platform:
        found.append(Obstacle(f"it was built on {record.platform}, this is {machine.platform}"))
    if machine.driver.problem is None:
        found += _gpu(record, machine)
    if record.options.strip_weights and not record.refitted:
        fix = "put them in: resnext-export refit ENGINE --output DIR, on a GPU"
        found.append(Obstacle("its weights were stripped", fix, rebuild=False))
    return tuple(found)


def _of_package(manifest: Manifest, machine: Machine) -> tuple[Obstacle, ...]:
    package, host = manifest.package, machine.host
    assert package is not None
    assert host is not None  # `machine_for` asks
    if package.device == "cuda" and host.compute_capability is None:
        fix = (
            "run it on a machine with a GPU and a CUDA build of PyTorch, or export it for the"
            " processor: --device cpu"
        )
        return tuple(
            Obstacle(reason, fix, rebuild=False) for reason in package_obstacles(package, host)
        )
    return tuple(map(Obstacle, package_obstacles(package, host)))


def remarks(manifest: Manifest, machine: Machine) -> tuple[str, ...]:
    """What does not keep the engine from loading and is still worth knowing."""
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


def serves(flavour: Flavour, driver: Driver) -> bool:
    """Whether ``flavour`` can build engines here and run them on the first GPU of ``driver``."""
    if driver.problem is not None or not driver.gpus:
        return False
    return flavour.kind == "trt" or _rtx_serves(_numbers(driver.gpus[0].compute_capability))


def refuse_if_not_loadable(manifest: Manifest, machine: Machine) -> None:
    """Check that ``machine`` can load the engine.

    Raises:
        MissingRequirement: with every reason, and what to do.
    """
    found = obstacles(manifest, machine)
    if not found:
        return
    reasons = "; ".join(obstacle.reason for obstacle in found)
    fixes = list(dict.fromkeys(obstacle.fix for obstacle in found if obstacle.fix))
    if any(obstacle.rebuild for obstacle in found):
        fixes.append(f"build it for this machine: {rebuild_command(manifest, machine)}")
    raise MissingRequirement(
        f"this machine cannot load the engine: {reasons}. To do: {'; '.join(fixes)}"
    )


def rebuild_command(manifest: Manifest, machine: Machine) -> str:
    """The command that makes the engine or package anew, to be run on ``machine``, for it."""
    if manifest.package is not None:
        return _recompile_command(manifest)
    record = manifest.engine
    assert record is not None
    options = record.options
    profiles = ",".join(f"{p.min}:{p.opt}:{p.max}" for p in options.profiles)
    words = ["resnext-export", "--format", manifest.kind, "--weights", manifest.weights.source]
    words += _network(manifest)
    words += ["--precision", manifest.precision, "--batch", profiles]
    words += ["--tf32"] if options.tf32 else []
    words += (
        ["--workspace", str(options.workspace_mib)] if options.workspace_mib is not None else []
    )
    words += (
        ["--optimization-level", str(options.optimization_level)]
        if options.optimization_level is not None
        else []
    )
    words += ["--tiling-level", options.tiling_level] if options.tiling_level is not None else []
    words += ["--compatibility", options.compatibility] if options.compatibility != "none" else []
    if options.fallbacks != EngineOptions(profiles=options.profiles).fallbacks:
        words += ["--on-refusal", ",".join(options.fallbacks) or "fail"]
    if targets := _targets_for(record, machine):
        words += ["--target", ",".join(targets)]
    words += ["--bake-preprocessing"] if manifest.preprocessing_baked else []
    words += ["--strip-weights"] if options.strip_weights else []
    return shlex.join(words)


def _recompile_command(manifest: Manifest) -> str:
    batch, package = manifest.batch, manifest.package
    assert package is not None
    sizes = (batch.min,) if batch.static else (batch.min, batch.opt, batch.max)
    words = [
        "resnext-export",
        "--format",
        manifest.kind,
        "--weights",
        manifest.weights.source,
        *_network(manifest),
    ]
    words += [
        "--precision",
        manifest.precision,
        "--batch",
        ":".join(str(size) for size in sizes if size is not None),
    ]
    words += ["--device", package.device] if package.device != "cpu" else []
    words += ["--bake-preprocessing"] if manifest.preprocessing_baked else []
    return shlex.join(words)


def _network(manifest: Manifest) -> list[str]:
    """Options that name the network; one without a name is a variant's with other classes or
    another input size.
    """
    config = manifest.config
    if manifest.model is not None:
        return ["--model", manifest.model]
    own = {"num_classes", "input_size"}
    wanted = {key: value for key, value in asdict(config).items() if key not in own}
    variants = (name for name, known in VARIANTS.items() if wanted.items() <= asdict(known).items())
    words = ["--model", name] if (name := next(variants, None)) else []
    return [
        *words,
        "--num-classes",
        str(config.num_classes),
        "--input-size",
        "x".join(map(str, config.input_size)),
    ]


def _targets_for(record: EngineRecord, machine: Machine) -> tuple[str, ...]:
    """What TensorRT-RTX must be told to build for: this GPU, unless it is served without being
    told.
    """
    if record.library != "tensorrt_rtx" or not machine.driver.gpus:
        return record.options.targets
    capability = machine.driver.gpus[0].compute_capability
    if not record.options.targets and _rtx_serves(_numbers(capability)):
        return ()
    return (f"sm_{capability.replace('.', '')}",)


def _library(record: EngineRecord, flavour: Flavour, machine: Machine) -> list[Obstacle]:
    wanted = f"{flavour.package}=={record.version}"
    if machine.version is None:
        return [
            Obstacle(f"{flavour.title} is not installed", f"pip install {wanted}", rebuild=False)
        ]
    have, built = _numbers(machine.version), _numbers(record.version)
    later_is_fine = record.options.compatibility == "version" and have >= built
    if have == built or later_is_fine:
        return []
    return [
        Obstacle(
            f"it was built by {flavour.title} {record.version}, installed is {machine.version}",
            f"pip install {wanted}, or build it anew",
        )
    ]


def _driver(record: EngineRecord, machine: Machine) -> list[Obstacle]:
    if machine.driver.problem is not None:
        return [
            Obstacle(
                machine.driver.problem,
                "run it on a machine with an NVIDIA GPU and driver",
                rebuild=False,
            )
        ]
    serves, needs = machine.driver.cuda_version, machine.cuda or record.cuda
    if serves is None or needs is None or _numbers(serves)[0] >= needs:
        return []
    reason = f"the driver serves CUDA {serves}, the library needs CUDA {needs}"
    return [Obstacle(reason, "install a newer driver", rebuild=False)]


def _gpu(record: EngineRecord, machine: Machine) -> list[Obstacle]:
    gpu = machine.driver.gpus[0]
    capability = _numbers(gpu.compute_capability)
    if record.library == "tensorrt_rtx":
        targets = [_numbers(f"{target[3:-1]}.{target[-1]}") for target in record.options.targets]
        fits = capability in targets if targets else _rtx_serves(capability)
        built = ", ".join(record.options.targets) or RTX_DEFAULT_TARGETS
    elif record.options.compatibility == "ampere+":
        fits, built = capability >= (8, 0), "Ampere and later"
    else:
        fits, built = (
            gpu.compute_capability == record.compute_capability,
            f"compute capability {record.compute_capability}",
        )
    if fits:
        return []
    reason = f"it was built for {built}, {gpu.name} has {gpu.compute_capability}"
    known = f"sm_{gpu.compute_capability.replace('.', '')}" in RTX_TARGETS or _rtx_serves(
        capability
    )
    if record.library == "tensorrt_rtx" and not known:
        return [
            Obstacle(
                reason,
                "TensorRT-RTX does not take this GPU: use TensorRT, --format trt",
                rebuild=False,
            )
        ]
    return [Obstacle(reason)]


def _rtx_serves(capability: tuple[int, ...]) -> bool:
    """Whether an engine of TensorRT-RTX without targets is for that compute capability; see
    RTX_DEFAULT_TARGETS.
    """
    return capability in ((8, 0), (8, 6), (8, 9)) or capability >= (12, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
