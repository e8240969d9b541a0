"""What a GPU does at most, and what share of it is assumed; each value says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resnext_bench.limits.floors import Ceiling

_DATA_SHEET = "NVIDIA's data sheet"
_HOPPER = "NVIDIA's tuning guide for Hopper"
_L2 = "published for an H200, the same processor: github.com/te42kyfo/gpu-benches, gpu-l2-cache"
_CYCLES = "published for an H100 PCIe: github.com/te42kyfo/gpu-benches, gpu-latency"
_PRODUCT = "a product of 8192 x 8192 x 8192, its clock held down by the power cap"


@dataclass(frozen=True)
class Machine:
    """One GPU.

    Attributes:
        name: for people.
        copy_bytes_s: bytes that a copy reads and writes, per second.
        products_s: operations of a large product, per second, by precision.
        launch_us: from one kernel of a CUDA graph to the next, if neither does anything.
        clock_hz: of the multiprocessors under kernels that memory limits.
        multiprocessors: how many.
        l2_bytes: size of the L2 cache.
        l2_bytes_s: bytes read from it, per second, by all multiprocessors.
        l2_cycles: of a load that the L2 cache answers.
        memory_cycles: of a load that memory answers.
        sheet: ceilings of the data sheet in round numbers, of which `docs/concepts/limits.md`
            takes the floors.
        sources: where each of these values comes from.
    """

    name: str
    copy_bytes_s: float
    products_s: Mapping[str, float]
    launch_us: float
    clock_hz: float
    multiprocessors: int
    l2_bytes: int
    l2_bytes_s: float
    l2_cycles: int
    memory_cycles: int
    sheet: Ceiling
    sources: Mapping[str, str]


#: One multiprocessor of compute capability 9.0: NVIDIA's tuning guide for Hopper. Bytes a cycle are
#: of the L1 cache and shared memory together, and of its port to the L2 cache; four schedulers
#: issue one instruction of a warp in each cycle.
THREADS, PROGRAMS, REGISTERS, SHARED_BYTES = 2048, 32, 65536, 227 * 1024
L1_BYTES_CYCLE, PORT_BYTES_CYCLE, ISSUED_CYCLE = 128, 64, 4


def _sources(run: str, l2: str) -> Mapping[str, str]:
    measured = f"measured, {run}"
    return MappingProxyType(
        {
            "copy_bytes_s": measured,
            "products_s": f"{measured}: {_PRODUCT}",
            "launch_us": f"{measured}: empty kernels in a CUDA graph",
            "clock_hz": f"{measured}: what the driver reports while a copy runs",
            "multiprocessors": _DATA_SHEET,
            "l2_bytes": l2,
            "l2_bytes_s": _L2,
            "l2_cycles": _CYCLES,
            "memory_cycles": _CYCLES,
            "sheet": f"{_DATA_SHEET}: 800 TFLOP/s for about 990, and the memory's bandwidth",
        }
    )


#: Machines by the name of the option.
MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        "h100": Machine(
            "NVIDIA H100 80GB HBM3",
            copy_bytes_s=3.004e12,
            products_s=MappingProxyType({"fp16": 709e12, "bf16": 707e12}),
            launch_us=1.193,
            clock_hz=1.98e9,
            multiprocessors=132,
            l2_bytes=50 * 10**6,
            l2_bytes_s=9.7e12,
            l2_cycles=270,
            memory_cycles=660,
            sheet=Ceiling(800e12, 3.35e12),
            sources=_sources("2026-11-27-h100-acceptance", f"{_DATA_SHEET}: 50 MB"),
        ),
        "h200": Machine(
            "NVIDIA H200",
            copy_bytes_s=4.251e12,
            products_s=MappingProxyType({"fp16": 658e12, "bf16": 695e12}),
            launch_us=1.108,
            clock_hz=1.98e9,
            multiprocessors=132,
            l2_bytes=60 * 10**6,
            l2_bytes_s=9.7e12,
            l2_cycles=270,
            memory_cycles=660,
            sheet=Ceiling(800e12, 4.8e12),
            sources=_sources("2026-11-27-h200-acceptance", "as PyTorch reports it: 60 MB"),
        ),
    }
)


@dataclass(frozen=True)
class Assumed:
    """What is assumed of the kernels, as shares of what the machine does at most.

    Attributes:
        memory: of the copy's bytes per second.
        tensor: of the large product's operations per second.
        l2: of the L2 cache's bytes per second.
        l1: of the bytes per cycle through L1 cache and shared memory.
        kept: of the L2 cache that holds what was written last.
        caught: of what a program reads again, share that its L1 cache answers.
        loaded: times that a load takes under load, against an idle machine.
        launch: times that a launch takes, against that of an empty kernel.
        torch: of their bound that PyTorch's own kernels reach (stem, mean, classifier).
    """

    memory: float
    tensor: float
    l2: float
    l1: float
    kept: float
    caught: float
    loaded: float
    launch: float
    torch: float


#: What holds if all goes well, what is expected, and what would still be no surprise.
ASSUMED: Mapping[str, Assumed] = MappingProxyType(
    {
        "best": Assumed(1.0, 1.0, 1.0, 1.0, 0.8, 1.0, 1.0, 1.0, 1.0),
        "expected": Assumed(0.85, 0.7, 0.8, 0.8, 0.5, 0.9, 1.5, 1.25, 0.5),
        "worst": Assumed(0.7, 0.45, 0.6, 0.5, 0.0, 0.0, 2.5, 1.7, 0.3),
    }
)
