"""Compiles the GPU kernels without a GPU, and reads what the assembler made of them.

`compiled` specializes a kernel for a layer's shape exactly as a launch would, compiles it with
Triton's bundled assembler, and counts instructions in the disassembly (SASS) of Triton's bundled
``cuobjdump``.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from resnext.kernels import grouped_conv3x3, pointwise, pool
from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: Instructions of tensor cores: mma.sync, wgmma, and tcgen05.
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")
#: Bytes of shared memory that the system takes for each block; counted as static from sm_90 on.
RESERVED = 1024
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<name>[A-Z][A-Za-z0-9_.]*)"
    r"(?P<operands>[^;?&]*)"
)
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_WIDTHS = {"8": 1, "16": 2, "64": 8, "128": 16, "256": 32}


class PoolShape(NamedTuple):
    """The stem's pool.

    Attributes:
        batch: images.
        channels: of the stem.
        height, columns: of the input.
    """

    batch: int
    channels: int
    height: int
    columns: int


@dataclass(frozen=True)
class Code:
    """Instructions of a kernel, or of one of its loops.

    Attributes:
        instructions: number of them, without padding.
        names: how many of each, by name with modifiers, such as ``LDG.E.128``.
    """

    instructions: int
    names: Mapping[str, int]

    def count(self, *opcodes: str) -> int:
        """Instructions of any of ``opcodes``, whatever their modifiers."""
        return sum(number for name, number in self.names.items() if name.split(".")[0] in opcodes)

    def widths(self, *opcodes: str) -> dict[int, int]:
        """How many of ``opcodes`` move 1, 2, 4, 8, 16 bytes a thread."""
        widths: Counter[int] = Counter()
        for name, number in self.names.items():
            opcode, *modifiers = name.split(".")
            if opcode in opcodes:
                found = (_WIDTHS[part.lstrip("US")] for part in modifiers if _is_width(part))
                widths[next(found, 4)] += number
        return dict(widths)

    @property
    def tensor(self) -> int:
        """Instructions of tensor cores."""
        return self.count(*TENSOR_CORES)

    @property
    def plain_maxima(self) -> int:
        """Maxima and minima of floats that lose NaN."""
        return sum(
            number
            for name, number in self.names.items()
            if name.split(".")[0] in ("FMNMX", "FMNMX3", "HMNMX2") and ".NAN" not in name
        )


@dataclass(frozen=True)
class CompiledKernel:
    """What the assembler made of a kernel.

    Attributes:
        kernel: ``conv3x3``, ``pointwise`` or ``pool``.
        arch: compute capability times ten.
        dtype: ``fp16`` or ``bf16``.
        constants: the kernel's constants by name.
        warps, stages: of a program.
        programs: number of programs (blocks) of the launch.
        registers: of a thread.
        stack_bytes: of a thread; what is spilled lies there.
        spills: loads from and stores to the stack.
        shared_bytes: of a block, without the system's kilobyte (`RESERVED`).
        tensor: name of the instructions of tensor cores, with their shape; empty if there is none.
        code: all instructions.
        loops: of each loop with products in it, in the order of the code. A loop that the compiler
            unrolled whole is none.
        sass: the disassembly.
    """

    kernel: str
    arch: int
    dtype: str
    constants: Mapping[str, int]
    warps: int
    stages: int
    programs: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    tensor: str
    code: Code
    loops: tuple[Code, ...]
    sass: str

    @property
    def loop(self) -> Code | None:
        """The loop with most instructions of tensor cores."""
        return max(self.loops, key=lambda loop: loop.tensor, default=None)


def compiled(
    kernel: str,
    arch: int,
    dtype: str,
    shape: ConvShape | ProductShape | PoolShape,
    choice: ConvChoice | ProductTile | None = None,
) -> CompiledKernel:
    """Compile ``kernel`` as its launch for ``shape`` would.

    Args:
        kernel: ``conv3x3``, ``pointwise`` or ``pool``.
        arch: 80, 90, 100 or 120.
        dtype: ``fp16`` or ``bf16``.
        shape: of the layer: `ConvShape`, `ProductShape` or `PoolShape`.
        choice: width and tile of `resnext.kernels.tiles`; None for the pool.
    """
    launch = specialized(kernel, arch, dtype, shape, choice)
    binary = triton.compile(
        ASTSource(launch.function, launch.signature, launch.constants, launch.attributes),
        target=GPUTarget("cuda", arch, 32),
        options=launch.options,
    )
    sass, resources = disassembled(binary.asm["cubin"])
    registers, stack, static = resources
    code, loops = read(sass)
    names = [name for name in code.names if name.split(".")[0] in TENSOR_CORES]
    return CompiledKernel(
        kernel,
        arch,
        dtype,
        MappingProxyType(launch.named_constants),
        launch.options["num_warps"],
        launch.options["num_stages"],
        launch.programs,
        registers,
        stack,
        code.count("LDL", "STL"),
        max(0, static - (RESERVED if arch >= 90 else 0)) + int(binary.metadata.shared),
        max(names, key=code.names.__getitem__, default=""),
        code,
        loops,
        sass,
    )


class Specialized(NamedTuple):
    """What a launch asks the compiler for."""

    function: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    programs: int

    @property
    def named_constants(self) -> dict[str, int]:
        """Constants by name."""
        return {self.function.arg_names[place[0]]: each for place, each in self.constants.items()}


def specialized(
    kernel: str,
    arch: int,
    dtype: str,
    shape: ConvShape | ProductShape | PoolShape,
    choice: ConvChoice | ProductTile | None = None,
) -> Specialized:
    """What the launch of ``kernel`` for ``shape`` would have compiled; arguments of `compiled`."""
    recorder = _Recorder()
    function = _LAUNCHES[kernel](recorder, DTYPES[dtype], shape, choice)
    backend = make_backend(GPUTarget("cuda", arch, 32))
    signature = inspect.signature(function.fn)
    binder = create_function_from_signature(signature, function.params, backend)
    bound, values, options = binder(*recorder.arguments, **recorder.named, debug=False)
    options, types, constants, attributes = function._pack_args(
        backend, options, bound, values, options
    )
    programs = 1
    for extent in recorder.grid:
        programs *= extent
    return Specialized(function, types, constants, attributes, dict(options.__dict__), programs)


def disassembled(cubin: bytes) -> tuple[str, tuple[int, int, int]]:
    """Disassembly, and registers, bytes of stack and of static shared memory."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "kernel.cubin"
        path.write_bytes(cubin)
        sass = _cuobjdump("--dump-sass", path)
        found = _RESOURCES.search(_cuobjdump("--dump-resource-usage", path))
    assert found is not None
    registers, stack, shared, local = map(int, found.groups())
    return sass, (registers, stack + local, shared)


def read(sass: str) -> tuple[Code, tuple[Code, ...]]:
    """All instructions of a disassembly, and those of each loop with products in it."""
    lines = list(_LINE.finditer(sass))
    places, names = [int(line["address"], 16) for line in lines], [line["name"] for line in lines]
    # Behind the last exit are the halves of waits that are seldom run, then padding.
    last = max((index for index, name in enumerate(names) if name == "EXIT"), default=0)
    loops: dict[int, int] = {}
    for index, line in enumerate(lines[:last]):
        target = re.search(r"0x([0-9a-f]+)\s*$", line["operands"].rstrip())
        if names[index].split(".")[0] == "BRA" and target and int(target[1], 16) <= places[index]:
            loops[places.index(int(target[1], 16))] = index
    inner = (_code(names[first : end + 1]) for first, end in sorted(loops.items()))
    return _code(names), tuple(loop for loop in inner if loop.tensor)


def _code(names: list[str]) -> Code:
    counts = Counter(name for name in names if name != "NOP")
    return Code(sum(counts.values()), MappingProxyType(dict(counts)))


def _is_width(part: str) -> bool:
    return part.lstrip("US") in _WIDTHS


def _cuobjdump(option: str, path: Path) -> str:
    command = [str(_TOOLS / "cuobjdump"), option, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class _Recorder:
    """Stands in for a kernel, and keeps what it is launched with."""

    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def __getitem__(self, grid: tuple[int, ...]) -> _Recorder:
        self.grid = grid
        return self

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named = arguments, named


def _images(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)


def _conv(recorder: _Recorder, dtype: torch.dtype, shape: ConvShape, choice: ConvChoice) -> Any:
    width = choice.width
    grouped_conv3x3.launch(
        recorder,
        _images(dtype, shape.batch, shape.channels, shape.height, shape.columns),
        torch.empty(shape.channels // width, 3, 3, width, width, dtype=dtype, device="meta"),
        torch.empty(shape.channels, device="meta"),
        _images(dtype, shape.batch, shape.channels, shape.out_height, shape.out_columns),
        shape.stride,
        choice.tile,
    )
    return grouped_conv3x3.grouped_conv3x3_kernel


def _product(
    recorder: _Recorder, dtype: torch.dtype, shape: ProductShape, choice: ProductTile
) -> Any:
    projection = shortcut = None
    if shape.projected:
        projection = torch.empty(shape.projected, shape.outputs, dtype=dtype, device="meta")
        shortcut = _images(dtype, 1, shape.projected, shape.pixels, 1)
    elif shape.shortcut:
        shortcut = _images(dtype, 1, shape.outputs, shape.pixels, 1)
    pointwise.launch(
        recorder,
        _images(dtype, 1, shape.inputs, shape.pixels, 1),
        torch.empty(shape.inputs, shape.outputs, dtype=dtype, device="meta"),
        torch.empty(shape.outputs, device="meta"),
        _images(dtype, 1, shape.outputs, shape.pixels, 1),
        choice,
        shortcut=shortcut,
        projection=projection,
    )
    return pointwise.pointwise_kernel


def _pool(recorder: _Recorder, dtype: torch.dtype, shape: PoolShape, choice: None) -> Any:
    del choice
    height, columns = ((side - 1) // 2 + 1 for side in (shape.height, shape.columns))
    pool.launch(
        recorder,
        _images(dtype, shape.batch, shape.channels, shape.height, shape.columns),
        torch.empty(shape.channels, device="meta"),
        _images(dtype, shape.batch, shape.channels, height, columns),
    )
    return pool.max_pool_kernel


_LAUNCHES: Mapping[str, Any] = {"conv3x3": _conv, "pointwise": _product, "pool": _pool}
