"""Calls that keep a device as busy as it can be: matrix products, a copy, and a call that does
nothing.

Imports PyTorch and the light modules of `resnext` alone, so that it also runs where pydantic is
missing.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

#: Element types of floating-point products.
_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
#: Features of a processor that computes in a precision without converting to float32 first.
_NATIVE = {
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
}
#: What oneDNN calls instruction sets, by the first feature of them that matters to a precision;
#: AVX10.1 has all three.
_FEATURES = {
    "int8": ("avx512_vnni", ("vnni", "bf16", "fp16", "avx10")),
    "bf16": ("avx512_bf16", ("bf16", "fp16", "avx10")),
    "fp16": ("avx512_fp16", ("fp16", "avx10")),
}
#: Rows for each thread, columns and depth of products on a CPU. Which one comes closest to the
#: ceiling depends on the caches. On a busy machine only calls of a millisecond run undisturbed: the
#: short forms take that in float32, the long ones in int8 on AMX.
_SHORT = ((256, 512, 1024), (128, 512, 1024))
_FORMS = {
    "fp32": _SHORT,
    "fp16": _SHORT,
    "bf16": (*_SHORT, (1024, 512, 2048)),
    "int8": (*_SHORT, (1024, 512, 2048), (2048, 1024, 1024)),
}
#: Launches in one CUDA graph.
LAUNCHES = 100


@dataclass(frozen=True)
class Product:
    """A matrix product.

    Attributes:
        precision: of its factors, a key of `resnext.precision.NUMERICS`.
        operations: multiplications and additions.
        call: computes it.
    """

    precision: str
    operations: int
    call: Callable[[], object]


def cpu_precisions(features: Collection[str]) -> tuple[str, ...]:
    """Precisions that a processor with these ``features`` computes in.

    int8 is always among them: any vector unit multiplies bytes faster than floats.
    """
    halves = [name for name, needed in _NATIVE.items() if not set(needed).isdisjoint(features)]
    return ("fp32", *halves, "int8")


def cuda_precisions(capability: tuple[int, int]) -> tuple[str, ...]:
    """Precisions that a GPU of this compute capability computes in."""
    newer = {"bf16": (8, 0), "tf32": (8, 0), "int8": (7, 5), "fp8": (8, 9)}
    return ("fp32", "fp16", *(name for name, since in newer.items() if capability >= since))


def cpu_products(precision: str, threads: int) -> Iterator[Product]:
    """Products of several forms."""
    for rows, columns, depth in _FORMS[precision]:
        rows = min(rows * threads, 16384)
        operations = 2 * rows * columns * depth
        if precision == "int8":
            yield Product(precision, operations, _cpu_int8(rows, columns, depth))
            continue
        left = torch.rand(rows, depth).to(_DTYPES[precision])
        right = torch.rand(depth, columns).to(_DTYPES[precision])
        yield Product(precision, operations, _mm(left, right))


def cuda_product(precision: str, device: torch.device, side: int = 8192) -> Product:
    """A square product. For float32, whether it rounds to TF32 is up to the caller
    (``torch.backends.cuda.matmul.allow_tf32``).

    Args:
        precision: of its factors.
        device: a CUDA device.
        side: rows and columns.
    """
    operations = 2 * side**3
    if precision == "int8":
        integers = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
        sums = torch.empty(side, side, dtype=torch.int32, device=device)
        return Product(
            precision, operations, lambda: torch._int_mm(integers, integers.t(), out=sums)
        )
    if precision == "fp8":
        eighths = torch.rand(side, side, device=device).to(torch.float8_e4m3fn)
        one = torch.ones((), device=device)
        return Product(
            precision,
            operations,
            lambda: torch._scaled_mm(
                eighths, eighths.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
            ),
        )
    square = torch.randn(side, side, device=device).to(_DTYPES[precision])
    return Product(precision, operations, _mm(square, square))


def copy(size_bytes: int, part_bytes: int, device: torch.device) -> Callable[[], object]:
    """A copy of the next ``part_bytes`` of ``size_bytes``: it reads as many and writes as many, and
    by the time that it comes to the same part again, no cache holds it.
    """
    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.full_like(source, 2)  # written once: fresh pages are slow
    starts = itertools.cycle(range(0, size_bytes, part_bytes))

    def run() -> None:
        part = slice(start := next(starts), start + part_bytes)
        target[part].copy_(source[part])

    return run


def tiny(device: torch.device) -> Callable[[], object]:
    """The smallest call of an operator."""
    one = torch.zeros(1, device=device)
    return lambda: one.add_(1)


def launches(device: torch.device) -> Callable[[], object]:
    """`LAUNCHES` of the smallest kernel, one after another; to be captured in a CUDA graph."""
    call = tiny(device)

    def run() -> None:
        for _ in range(LAUNCHES):
            call()

    return run


def cpu_instructions(product: Product) -> str:
    """The instruction set that ``product`` really uses, for example ``amx``, as oneDNN's log names
    it; PyTorch's own name for its widest if oneDNN does not compute it (float32).
    """
    mkldnn = torch.backends.mkldnn
    with tempfile.TemporaryFile() as log:
        verbose: AbstractContextManager[object] = mkldnn.verbose(mkldnn.VERBOSE_ON)  # type: ignore[no-untyped-call]  # torch's
        with _stdout_to(log.fileno()), verbose:
            product.call()
        log.seek(0)
        text = log.read().decode(errors="replace")
    widest = torch.backends.cpu.get_cpu_capability().lower()
    return named_instructions(product.precision, text) or widest


def named_instructions(precision: str, log: str) -> str | None:
    """The instruction set of the product in a log of oneDNN; None if the log has none."""
    executed = re.findall(r",exec,cpu,(?:matmul|inner_product),([^,]*),", log)
    if not executed:
        return None
    name = str(executed[-1]).rpartition(":")[2].replace("_core", "")
    if "amx" in name:
        return "amx"
    feature, implied_by = _FEATURES.get(precision, ("", ()))
    wide = name.startswith(("avx512", "avx10"))
    return feature if wide and any(one in name for one in implied_by) else name


def _mm(left: torch.Tensor, right: torch.Tensor) -> Callable[[], object]:
    out = torch.empty(len(left), right.shape[1], dtype=left.dtype, device=left.device)
    return lambda: torch.mm(left, right, out=out)


def _cpu_int8(rows: int, columns: int, depth: int) -> Callable[[], object]:
    # The operator behind PyTorch's quantized networks. `torch._int_mm` does not pack its factors,
    # and reached a third of this on AMX.
    left = torch.randint(0, 256, (rows, depth), dtype=torch.uint8)
    right = torch.randint(-128, 128, (columns, depth), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(right, [rows, depth])
    scales, zeros = torch.ones(columns), torch.zeros(columns, dtype=torch.int64)
    settings: tuple[Any, ...] = (packed, scales, zeros, None, 1e5, 0, torch.uint8, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(left, 1.0, 0, *settings)


@contextmanager
def _stdout_to(file: int) -> Iterator[None]:
    """Inside the block, standard output goes to an open file, that of C code as well."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(file, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
