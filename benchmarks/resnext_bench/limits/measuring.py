"""Measures what a device can do at most, and prints it as JSON.

    python -m resnext_bench.limits.measuring '{"device": "cpu", "threads": 2, "precisions": []}'

A process by itself: the variable that limits oneDNN to older instruction sets is read once, and
thread counts and TF32 are settings of a whole process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from resnext.errors import first_line
from resnext.runtimes.pt2.record import cpu_flags
from resnext.timing.clock import iterations_for, now_ns, time_device, time_host

from . import products
from .products import Product

#: Seconds of one visit to a call.
VISIT_S = 0.06
#: A neighbor can only make a call slower, so the fastest counts, and rounds go on until two in a
#: row have improved none by this share, or this many seconds are over.
_IMPROVED, _MOST_S = 0.03, 10.0
#: Bytes that copies go through, and those of one copy. A copy reads and writes them: together more
#: than caches hold.
_COPIED_BYTES = {"cpu": (1 << 29, 1 << 23), "cuda": (1 << 30, 1 << 30)}

#: Nanoseconds of each of a number of calls.
TimesNs: TypeAlias = Callable[[Callable[[], object], int], list[int]]


@dataclass
class Best:
    """Fastest of the calls of one kind.

    Attributes:
        call: what is timed.
        tf32: whether float32 products may round to TF32 meanwhile.
        nanoseconds: of the fastest call.
    """

    call: Callable[[], object]
    tf32: bool = False
    nanoseconds: float = field(default=float("inf"))


def time_all(calls: Sequence[Best], times_ns: TimesNs) -> None:
    """Time ``calls`` in rounds, in which they take turns."""
    steady, began = 0, now_ns()
    while steady < 2 and now_ns() - began < _MOST_S * 1e9:
        improved = False
        for best in calls:
            torch.backends.cuda.matmul.allow_tf32 = best.tf32
            estimate = min(times_ns(best.call, 2))  # also warms the caches
            count = iterations_for(VISIT_S * 1e9, estimate, most=1000)
            fastest = min(estimate, *times_ns(best.call, count))
            improved |= fastest < (1 - _IMPROVED) * best.nanoseconds
            best.nanoseconds = min(best.nanoseconds, fastest)
        steady = 0 if improved else steady + 1


def measure_cpu(threads: int, precisions: Sequence[str] = ()) -> dict[str, Any]:
    """The ceilings of ``threads`` threads; if ``precisions`` are named, of these alone."""
    torch.set_num_threads(threads)
    device, notes = torch.device("cpu"), list[str]()
    made: list[tuple[Product, Best, str]] = []
    for precision in precisions or products.cpu_precisions(cpu_flags()):
        try:
            for product in products.cpu_products(precision, threads):
                made.append((product, Best(product.call), products.cpu_instructions(product)))
        except (RuntimeError, AttributeError) as exc:  # this build of PyTorch cannot
            notes.append(f"{precision} was not measured: {first_line(exc)}")
    others = {} if precisions else _others(device)
    time_all([best for _, best, _ in made] + list(others.values()), time_host)
    return _found(made, others, device, notes, launches=1)


def measure_cuda(device: torch.device | None = None) -> dict[str, Any]:
    """The ceilings of ``device``, by default the first GPU."""
    device, notes = device or torch.device("cuda"), list[str]()
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    made: list[tuple[Product, Best, str]] = []
    for precision in products.cuda_precisions(torch.cuda.get_device_capability()):
        try:
            product = products.cuda_product(precision, device)
            product.call()
            torch.cuda.synchronize()
        except RuntimeError as exc:  # this build of PyTorch cannot
            notes.append(f"{precision} was not measured: {first_line(exc)}")
            continue
        cores = "cuda cores" if precision == "fp32" else "tensor cores"
        made.append((product, Best(product.call, tf32=precision == "tf32"), cores))
    others = _others(device)
    launches = products.launches(device)
    launches()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        launches()
    others["launch"] = Best(graph.replay)

    def times_ns(call: Callable[[], object], count: int) -> list[int]:
        with torch.cuda.stream(stream):
            return time_device(_Queue(stream, call), count)[0]

    time_all([best for _, best, _ in made] + list(others.values()), times_ns)
    return _found(made, others, device, notes, launches=products.LAUNCHES)


class _Queue:
    """A call on a stream, for the clock."""

    def __init__(self, stream: Any, call: Callable[[], object]) -> None:
        self._stream, self.enqueue = stream, call

    @property
    def cuda_stream(self) -> int:
        return int(self._stream.cuda_stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


def _others(device: torch.device) -> dict[str, Best]:
    """The copy and the smallest call."""
    return {
        "copy": Best(products.copy(*_COPIED_BYTES[device.type], device)),
        "launch": Best(products.tiny(device)),
    }


def _found(
    made: Sequence[tuple[Product, Best, str]],
    others: dict[str, Best],
    device: torch.device,
    notes: list[str],
    *,
    launches: int,
) -> dict[str, Any]:
    """What `MachineCeilings` stores: of each precision and instruction set, the fastest product."""
    fastest: dict[tuple[str, str], float] = {}
    for product, best, instructions in made:
        key = product.precision, instructions
        speed = product.operations / best.nanoseconds * 1e9
        fastest[key] = max(fastest.get(key, 0.0), speed)
    found: dict[str, Any] = {
        "notes": notes,
        "products": [
            {"precision": precision, "instructions": instructions, "operations_per_s": speed}
            for (precision, instructions), speed in fastest.items()
        ],
    }
    if others:
        copied = 2 * _COPIED_BYTES[device.type][1]
        found["copy_bytes_per_s"] = copied / others["copy"].nanoseconds * 1e9
        found["launch_ns"] = others["launch"].nanoseconds / launches
    return found


def main() -> None:
    """Measure what the first argument says, as JSON, and print it as JSON."""
    request = json.loads(sys.argv[1])
    with torch.inference_mode():
        if request["device"] == "cuda":
            found = measure_cuda()
        else:
            found = measure_cpu(request["threads"], request["precisions"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
