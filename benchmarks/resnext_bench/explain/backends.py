"""What each runtime computes in, on this machine or on a GPU of another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from resnext.errors import UsageError
from resnext.machine.environment import versions_of
from resnext.machine.machine import Machine
from resnext.precision import HALVES
from resnext.runtimes.availability import available, available_runtimes
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES, Runtime, runtime_named
from resnext.runtimes.trt.library import RTX_TARGETS
from resnext_bench.limits.products import cpu_precisions, cuda_precisions

from .facts import Backend, Way

#: Backends for another machine's GPU: what an engine is built for.
FOR_TARGET = ("trt", "trt-rtx")
#: GPUs that TensorRT builds for from 10.13 on, the oldest release that the toolkit takes: by its
#: release notes (Volta left in 10.5) and the names of its resource libraries, of which sm_86's also
#: serves sm_87. For sm_121 only TensorRT-RTX's list was found.
TARGETS = (
    *("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90"),
    *("sm_100", "sm_103", "sm_110", "sm_120", "sm_121"),
)
#: Instructions that a processor has for a precision, by its feature, the fastest first.
INSTRUCTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fp16": {"amx_fp16": "AMX", "avx512_fp16": "AVX-512 FP16", "asimdhp": "Arm's FP16"},
        "bf16": {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "Arm's BF16"},
        "int8": {
            "amx_int8": "AMX",
            "avx512_vnni": "AVX-512 VNNI",
            "avx_vnni": "AVX-VNNI",
            "i8mm": "Arm's I8MM",
            "asimddp": "Arm's dot product",
        },
    }
)


def instructions(precision: str, features: Collection[str]) -> str:
    """The fastest instructions of a processor for ``precision``; "" if it has none."""
    known = INSTRUCTIONS.get(precision, {})
    return next((title for feature, title in known.items() if feature in features), "")


def backends_here(
    names: Iterable[str] | None, features: frozenset[str], machine: Machine
) -> tuple[Backend, ...]:
    """Runtimes of this machine.

    Args:
        names: registry names; None means all that it has.
        features: of the processor.
        machine: driver and platform.

    Raises:
        UnknownName: no such runtime.
    """
    return tuple(_here(names, features, machine))


def backends_for(names: Iterable[str] | None, gpu: tuple[int, int]) -> tuple[Backend, ...]:
    """Runtimes for a GPU that is not here.

    Args:
        names: registry names; None means `FOR_TARGET`.
        gpu: its compute capability.

    Raises:
        UsageError: one runs on CPUs only, or is chosen by what the machine has; or ``gpu`` is not
            among `TARGETS`.
    """
    if (target := target_name(gpu)) not in TARGETS:
        raise UsageError(
            f"`target` {target} is no GPU that TensorRT 10 or 11 builds for",
            hint=f"name one of {', '.join(TARGETS)}",
        )
    found = []
    for name in names or FOR_TARGET:
        runtime = runtime_named(name)
        if "cuda" not in runtime.devices or name == "ort":
            raise UsageError(
                f"backend {name!r} does not run on GPUs, or not on them alone",
                hint="drop `target`, or use `backend` ort-cuda, ort-trt, trt or trt-rtx",
            )
        problem = ""
        if name.endswith("trt-rtx") and target not in RTX_TARGETS:
            problem = f"TensorRT-RTX has no target {target}; it has {', '.join(RTX_TARGETS)}"
        found.append(Backend(name, "cuda", cuda_ways(runtime, gpu), problem, _version(name)))
    return tuple(found)


def target_name(gpu: tuple[int, int]) -> str:
    """A compute capability as builders name it: ``sm_89``."""
    return f"sm_{gpu[0]}{gpu[1]}"


def cpu_ways(
    runtime: Runtime, features: Collection[str], openvino: Collection[str] = ()
) -> dict[str, Way]:
    """How a runtime gets to each of its precisions on a processor.

    Args:
        runtime: from the registry.
        features: of the processor.
        openvino: precisions that OpenVINO says it has there.
    """
    native = cpu_precisions(features)
    ways: dict[str, Way] = {}
    for precision in runtime.precisions:
        if precision not in HALVES:
            ways[precision] = "native"
        elif runtime.module == "ort":
            ways[precision] = "float32"
        elif runtime.name == "openvino" and precision not in openvino:
            ways[precision] = "refused"  # by its session: it would compute in another type
        else:
            ways[precision] = "native" if precision in native else "emulated"
    return ways


def cuda_ways(runtime: Runtime, gpu: tuple[int, int]) -> dict[str, Way]:
    """How a runtime gets to each of its precisions on a GPU of this compute capability."""
    native = cuda_precisions(gpu)
    return {
        precision: "native" if precision in native else "refused"
        for precision in runtime.precisions
        if runtime.name != "ort" or precision in RUNTIMES["ort-cuda"].precisions
    }


def _here(
    names: Iterable[str] | None, features: frozenset[str], machine: Machine
) -> Iterator[Backend]:
    gpus = machine.driver.gpus
    for name in available_runtimes() if names is None else names:
        runtime = runtime_named(name)
        finding = available(name, machine=machine)
        on_gpu = "cuda" in runtime.devices and (
            "cpu" not in runtime.devices
            or (bool(gpus) and available(name, "cuda", machine=machine) is None)
        )
        problem = "" if finding is None else finding.message
        if on_gpu and not gpus:  # why, it says itself
            yield Backend(name, "cuda", dict.fromkeys(runtime.precisions, "native"), problem)
        elif on_gpu:
            capability = capability_of(gpus[0].compute_capability)
            ways = cuda_ways(runtime, capability)
            yield Backend(name, "cuda", ways, problem, _version(name))
        else:
            said = _openvino() if name == "openvino" and finding is None else ()
            yield Backend(name, "cpu", cpu_ways(runtime, features, said), problem)


def capability_of(text: str) -> tuple[int, int]:
    """A compute capability: ``8.9`` becomes (8, 9)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _openvino() -> frozenset[str]:
    """Precisions that OpenVINO says this processor has."""
    from resnext.runtimes.openvino.library import shared_core

    said = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return frozenset(name.lower() for name in said) & set(HALVES)


def _version(name: str) -> str:
    package = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}.get(name)
    return next(iter(versions_of([package]).values()), "") if package else ""


#: Runtimes that an explanation can be about.
NAMES = tuple(name for name in LOCAL_RUNTIMES if name != "onnx-reference")
