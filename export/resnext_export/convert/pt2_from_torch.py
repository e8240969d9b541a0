"""An AOTInductor package (.pt2) from a PyTorch ResNeXt: traced, and compiled ahead of time."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR, EXTRA_DIR

from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import KernelsFrom, PackageRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import GateFailed, MissingRequirement, SessionFailed, UsageError
from resnext.kernels import OLDEST_GPU
from resnext.network.forms import fold_batch_norms
from resnext.precision import PRECISIONS, Precision
from resnext.runtimes.buffers import CudaMemory
from resnext.runtimes.pt2.package import RECORD_NAME
from resnext.runtimes.pt2.record import cpu_flags, this_host
from resnext.runtimes.pt2.toolchain import obstacle, toolchain
from resnext.runtimes.registry import RUNTIMES
from resnext.runtimes.tensor_session import Translated
from resnext.storage import scratch_folder
from resnext.weights.spec import Weights, load_model

from .onnx_from_torch import INPUT_NAME, OUTPUT_NAME, PixelInput
from .pt2_graph import check_as_requested, graph_layers, toolkit_kernels

#: What the runtime of packages runs.
_PRECISIONS = RUNTIMES["pt2"].precisions
#: x86-64 levels (System V psABI), best first, by the Linux kernel's names. A package compiled for a
#: level runs on every processor that has it; PyTorch's default, ``native``, is the building machine
#: only.
_V3 = (
    "cx16",
    "lahf_lm",
    "popcnt",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "abm",
    "movbe",
    "xsave",
)
_LEVELS = {
    "x86-64-v4": (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": _V3,
}
#: Calls of library kernels in the code that Inductor generates.
_KERNEL = re.compile(r"\baoti_torch_(?:cpu|cuda)_(\w*(?:conv|linear|mm)\w*)\(")
#: Calls of the toolkit's kernels in it, not the functions that are called, which return void.
_OUR_KERNEL = re.compile(
    r"(?<!void )\bcall_(grouped_conv3x3|pointwise|max_pool)_kernel(?:_\d+)?\(", re.ASCII
)
#: What the toolkit's kernels can do, of what packages can.
_FUSED_PRECISION: Precision = "fp16"

#: The linker's build ID in a library: a digest of 20 bytes over everything that it linked.
_BUILD_ID = re.compile(rb"(\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0).{20}", re.DOTALL)


class HalfInside(nn.Module):
    """A network that computes in float16 between float32 images and float32 logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N x classes, float32) of float32 ``images``."""
        logits: Tensor = self.model(images.half())
        return logits.float()


class FusedInside(nn.Module):
    """A network on the toolkit's kernels between float32 images and float32 logits.

    Args:
        model: the network, in float16, its biases in float32.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N x classes, float32) of float32 ``images``."""
        half = images.half().contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(half)
        return logits.float()


class ChannelsLast(nn.Module):
    """A network that takes images of any layout and computes in channels-last, the fastest."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N x classes) of ``images``."""
        logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits


def pt2_from_torch(
    weights: Weights,
    batch: BatchRange,
    path: Path,
    *,
    bake_preprocessing: bool = False,
    precision: Precision = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    kernels: KernelsFrom = "inductor",
    metadata: Mapping[str, str] | None = None,
) -> PackageRecord:
    """Trace the network, fold its batch norms, compile it, and write code and weights to ``path``.

    It takes half a minute or more, mostly in the C++ compiler. Nothing else is written; the
    compiler's other files are deleted with a temporary folder.

    Args:
        weights: the network to export.
        batch: a static range makes the first dimension fixed, any other symbolic.
        path: file to write, ending in ``.pt2``.
        bake_preprocessing: take uint8 N x H x W x C pixels instead of float32 N x C x H x W images.
        precision: of weights and activations; input and output stay float32 (or uint8 pixels).
        device: the device to compile for; ``cuda`` needs the GPU.
        kernels: whose kernels run the blocks; ``fused`` are the toolkit's own, with tiles timed
            for ``batch.opt`` images.
        metadata: facts that Python and C++ programs can read from the loaded package, by
            ``get_metadata``.

    Returns:
        The package's record, for the manifest: what it depends on is PyTorch's version and the
        processor's instructions or the GPU's compute capability.

    Raises:
        UsageError: another precision than fp32 or fp16, or one that ``kernels`` do not take.
        MissingRequirement: no C++ compiler, no CUDA device, or no Triton for ``kernels``.
        GateFailed: torch.export's graph is not as requested (batch fixed, batch norms not folded,
            layers missing), or the compiled code does not call the kernels in it.
        SessionFailed: the compiler failed.
    """
    refuse_if_not_compilable(precision, device, kernels)
    config = weights.config
    size = batch.opt if batch.static else max(2, batch.opt)  # torch.export would specialize on 1
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    dtype = "float32"
    if bake_preprocessing:
        shape, dtype = (*config.input_size, config.in_channels), "uint8"
    example = torch.zeros(size, *shape, dtype=getattr(torch, dtype), device=device)
    with (
        torch.no_grad(),
        _quiet(),
        _compiler_errors(),
        toolchain(device),
        _temporary_cache() as cache,
    ):
        model, plain = _network(weights, batch, precision, kernels)
        if bake_preprocessing:
            model = PixelInput(model, weights.preprocessing)
        program = _traced(model.eval().to(device), example, batch)
        layers = graph_layers(program)
        check_as_requested(program, layers, config, batch, precision, plain)
        # A one-channel image has the same bytes in both layouts. With a symbolic batch, Inductor
        # (2.13) then takes the frozen stem's output for contiguous, although its kernel writes
        # channels-last: wrong logits.
        frozen = device == "cpu" and (batch.static or config.in_channels > 1)
        target, flags = _target()
        files = _compiled(program, example, {"freezing": frozen, **target}, metadata or {})
        called = _kernels(files)
        _check_called(toolkit_kernels(program), called)
        host, first = this_host(), batch.min if batch.static else None
        record = PackageRecord(
            torch=host.torch,
            cuda=host.cuda,
            device=device,
            platform=host.platform,
            cpu_capability=host.cpu_capability,
            cpu_flags=flags,
            gpu=torch.cuda.get_device_name() if device == "cuda" else None,
            compute_capability=host.compute_capability if device == "cuda" else None,
            precision=precision,
            batch=batch,
            inputs=(TensorSpec(name=INPUT_NAME, dtype=dtype, shape=(first, *shape)),),
            outputs=(
                TensorSpec(name=OUTPUT_NAME, dtype="float32", shape=(first, config.num_classes)),
            ),
            frozen=frozen,
            layers=layers,
            kernels=called,
            kernels_from=kernels,
        )
        _write(path, files, record, cache)
    return record


def refuse_if_not_compilable(
    precision: Precision, device: Literal["cpu", "cuda"], kernels: KernelsFrom = "inductor"
) -> None:
    """Check what can be checked before any weights are loaded.

    Raises:
        UsageError: another precision than fp32 or fp16, or one that ``kernels`` do not take.
        MissingRequirement: PyTorch is too old, there is no C++ compiler, no CUDA device, no CUDA
            toolkit, or no Triton for ``kernels``, or the device is too old for them.
    """
    if precision not in _PRECISIONS:
        able = " or ".join(_PRECISIONS)
        raise UsageError(f"a .pt2 package is made in {able}, not in {precision}")
    if kernels == "fused":
        _refuse_if_not_fusible(precision, device)
    with _quiet():
        problem = obstacle(device)
    if problem is not None:
        # A processor has no fused kernels.
        also = ", and drop `kernels`" * (kernels == "fused" and problem.hint.endswith("cpu"))
        raise MissingRequirement(problem.message, hint=problem.hint + also)
    if kernels == "fused" and (found := torch.cuda.get_device_capability()) < OLDEST_GPU:
        raise MissingRequirement(
            f"the fused kernels need compute capability {OLDEST_GPU[0]}.{OLDEST_GPU[1]}, and"
            f" {torch.cuda.get_device_name()} has {found[0]}.{found[1]}",
            hint="use `kernels` inductor",
        )


def _refuse_if_not_fusible(precision: Precision, device: Literal["cpu", "cuda"]) -> None:
    if device != "cuda":
        raise UsageError(
            f"the fused kernels run on a GPU, not on {device}: use `device` cuda, or drop `kernels`"
        )
    if precision != _FUSED_PRECISION:
        raise UsageError(
            f"the fused kernels of a package compute in {_FUSED_PRECISION}, not in {precision}: use"
            f" `precision` {_FUSED_PRECISION}, or drop `kernels`"
        )
    if find_spec("triton") is None:
        raise MissingRequirement(
            "the fused kernels are compiled by Triton, which is not installed",
            hint="pip install triton (CUDA builds of torch bring theirs), or drop `kernels`",
        )


def _network(
    weights: Weights, batch: BatchRange, precision: Precision, kernels: KernelsFrom
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """The network to trace, and what the toolkit's kernels do not take of it; None if they were not
    asked for.
    """
    model = load_model(weights)
    if kernels == "fused":
        from resnext.kernels.network import fused_network
        from resnext.runtimes.pytorch.fused import timed_tiles

        memory, dtype = CudaMemory(), torch.float16
        with Translated("pt2"), memory.current(), timed_tiles(memory, dtype) as choose:
            fused = fused_network(model, batch.opt, dtype, choose)
        return FusedInside(fused), tuple(fused.plain)
    network: nn.Module = ChannelsLast(fold_batch_norms(model))
    return HalfInside(network) if PRECISIONS[precision].half else network, None


def _traced(model: nn.Module, example: Tensor, batch: BatchRange) -> torch.export.ExportedProgram:
    dynamic = (
        None if batch.static else ({0: torch.export.Dim("batch", min=batch.min, max=batch.max)},)
    )
    return torch.export.export(model, (example,), dynamic_shapes=dynamic)


def _target() -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options that select the processor to compile for, and the features that the code may use."""
    from torch._inductor import list_options
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    host = cpu_flags()
    level = next((name for name, flags in _LEVELS.items() if host.issuperset(flags)), None)
    if level is None or "cpp.march" not in list_options():
        return {}, tuple(sorted(host))  # compiled for exactly this processor
    # PyTorch requests more than the level: -mavx512vnni, which the kernel calls avx512_vnni.
    requested = {
        flag.removeprefix("-m").replace("-", "")
        for flag in pick_vec_isa().build_arch_flags().split()
    }
    more = [flag for flag in host if flag.replace("_", "") in requested]
    return {"cpp.march": level}, tuple(sorted({*_LEVELS[level], *more}))


def _compiled(
    program: torch.export.ExportedProgram,
    example: Tensor,
    options: dict[str, Any],
    metadata: Mapping[str, str],
) -> list[Path]:
    """The files that AOTInductor makes of ``program``, in its cache folder."""
    from torch._inductor import aot_compile, list_options

    requested = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": dict(metadata),  # a copy: Inductor adds to it
        "aot_inductor.model_name_for_generated_files": "resnext",
        "aot_inductor.enable_line_tables": False,  # source paths of this machine
        "aot_inductor.precompile_headers": (False),  # costs more than it saves if each is used once
        "cpp.dynamic_threads": (True),  # else this machine's number of threads would be compiled in
        **options,
    }
    supported = {key: value for key, value in requested.items() if key in list_options()}
    with _lasting_names():
        files = aot_compile(program.module(), (example,), options=supported)
    assert isinstance(files, list)  # because a package was requested
    return [Path(file) for file in files if isinstance(file, str)]


@contextmanager
def _lasting_names() -> Iterator[None]:
    """Let Inductor look up its declared arrays by the object that wrote them.

    PyTorch 2.11 identifies a bound method by its address, which may be reused: the code then
    differs from export to export, and may name an array of another scope. 2.13 uses the object.
    """
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    if not str(torch.__version__).startswith(("2.11.", "2.12.")):
        yield
        return
    original: Any = CppWrapperCpu.codegen_int_array_var
    # Methods bound to one object are equal; the first stays alive, and its address with it.
    methods: dict[Any, Any] = {}

    def lasting(self: Any, int_array: str, writeline: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, int_array, methods.setdefault(writeline, writeline), *args, **kwargs)

    try:
        CppWrapperCpu.codegen_int_array_var = lasting  # type: ignore[method-assign]
        yield
    finally:
        CppWrapperCpu.codegen_int_array_var = original  # type: ignore[method-assign]


def _kernels(files: list[Path]) -> dict[str, int]:
    """Library kernels that the generated code calls for convolutions and matrix products, and the
    toolkit's kernels.
    """
    text = "".join(
        file.read_text(encoding="utf-8") for file in files if file.name.endswith("wrapper.cpp")
    )
    return dict(Counter([*_KERNEL.findall(text), *_OUR_KERNEL.findall(text)]))


def _check_called(traced: Mapping[str, int], called: Mapping[str, int]) -> None:
    """Compare kernels in the graph with calls in the compiled code.

    An operator of the toolkit computes by PyTorch's convolution what its kernel does not take.

    Raises:
        GateFailed: the code calls more or fewer.
    """
    for name, count in traced.items():
        if (found := called.get(name, 0)) != count:
            raise GateFailed(
                f"the compiled code calls the kernel {name} {found} times instead of {count}",
                hint="use `kernels` inductor",
            )


def _write(path: Path, files: list[Path], record: PackageRecord, cache: Path) -> None:
    """Package library and metadata, without the sources, which contain details of this machine.

    A comment replaces the wrapper: PyTorch 2.11 finds the metadata by the name of that file, but
    does not read it.
    """
    with PT2ArchiveWriter(str(path)) as archive:
        for file in files:
            if file.suffix != ".cpp":
                data = _without_traces(file.read_bytes(), cache, Path(torch.__file__).parent.parent)
            elif file.name.endswith("wrapper.cpp"):
                data = b"// The source is not packaged.\n"
            else:
                continue
            archive.write_bytes(f"{AOTINDUCTOR_DIR}model/{file.name}", data)
        archive.write_string(f"{EXTRA_DIR}{RECORD_NAME}", record.model_dump_json())


def _without_traces(data: bytes, *folders: Path) -> bytes:
    """A library without the folders that its assertions name, and without the build ID that depends
    on them.

    The length is kept, so an export gives the same bytes wherever the folders' names are as long.
    """
    for folder in map(os.fsencode, folders):
        data = data.replace(folder, b"." * len(folder))
    return _BUILD_ID.sub(lambda match: match[1] + bytes(20), data, count=1)


@contextmanager
def _temporary_cache() -> Iterator[Path]:
    """A temporary folder for everything that Inductor and Triton write."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with scratch_folder() as folder:
        try:
            os.environ.update(dict(zip(names, (str(folder), f"{folder}/triton"), strict=True)))
            yield folder
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of PyTorch's modules about each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Full float32 is intended; PyTorch warns that TF32 would be faster.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """Translate errors of Inductor and the C++ compiler, one line each."""
    try:
        yield
    except MemoryError as exc:
        raise MissingRequirement(
            "out of memory while compiling the package", hint="use a smaller `batch`"
        ) from exc
    except (RuntimeError, OSError) as exc:  # OSError: the CUDA toolkit was not found
        text = f"{type(exc).__name__} {exc}"
        if any(
            sign in text
            for sign in ("CUDA_HOME", "cuda.h:", "cuda_runtime.h:", "cannot find -lcuda")
        ):
            raise MissingRequirement(
                "compiling a .pt2 package for CUDA needs the CUDA toolkit's headers and libcuda",
                hint="install the toolkit, set CUDA_HOME to it, or compile for the processor:"
                " `device` cpu",
            ) from exc
        if isinstance(exc, OSError):
            raise
        if any(
            sign in text
            for sign in (
                "InvalidCxxCompiler",
                "No working C++ compiler",
                "C compiler",
                "TritonMissing",
            )
        ):
            raise MissingRequirement(
                "a .pt2 package is compiled, and no working C++ compiler was found",
                hint="apt-get install g++ (or set CXX), or use `format` onnx",
            ) from exc
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        blamed = next((line for line in lines if "error:" in line), lines[0])
        raise SessionFailed(f"the package could not be compiled: {blamed[:300]}") from exc
