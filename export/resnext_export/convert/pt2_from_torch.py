"""An AOTInductor package (.pt2) from a PyTorch ResNeXt: traced by torch.export, compiled ahead of
time by Inductor.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import PackageLayer, PackageRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import GateFailed, MissingRequirement, SessionFailed, UsageError
from resnext.network.forms import fold_batch_norms
from resnext.network.layers import layers as weighted_layers
from resnext.precision import Precision
from resnext.runtimes.pt2.package import RECORD_NAME
from resnext.runtimes.pt2.record import cpu_flags, this_host
from resnext.runtimes.pt2.toolchain import obstacle, toolchain
from resnext.weights.spec import Weights, load_model

from .onnx_from_torch import INPUT_NAME, OUTPUT_NAME, PixelInput

_DTYPES: Mapping[Precision, str] = {"fp32": "float32", "fp16": "float16"}
_OPS: Mapping[str, Literal["Conv", "Gemm"]] = {
    "aten.conv2d.default": "Conv",
    "aten.linear.default": "Gemm",
}
#: x86-64's levels, best first, by the Linux kernel's names (System V psABI). Compiled for a level,
#: a package runs on every processor that has it; PyTorch's default, ``native``, is the building
#: machine alone.
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
#: Calls of library kernels in the code that Inductor writes.
_KERNEL = re.compile(r"\baoti_torch_(?:cpu|cuda)_(\w*(?:conv|linear|mm)\w*)\(")

#: The note that a linker leaves in a library: 20 bytes, a digest of all that it linked.
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


class ChannelsLast(nn.Module):
    """A network that takes images of any layout and works in channels-last, which convolutions are
    fastest in.
    """

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
    metadata: Mapping[str, str] | None = None,
) -> PackageRecord:
    """Trace the network, fold its batch norms, compile it, and write code and weights to ``path``.

    It takes half a minute and more, most of it the C++ compiler's. Nothing else is written; what
    the compiler leaves goes with a temporary folder.

    Args:
        weights: what to export.
        batch: a static range gives a fixed first dimension, any other a symbolic one.
        path: file to write, ending in ``.pt2``.
        bake_preprocessing: take uint8 N x H x W x C pixels instead of float32 N x C x H x W images.
        precision: of weights and activations; the input and output stay float32 (or uint8 pixels).
        device: what to compile for; ``cuda`` needs the GPU.
        metadata: what `torch` and C++ programs read by ``get_metadata`` of the loaded package.

    Returns:
        What the package says of itself: what it hangs on (PyTorch's version, instructions of the
            processor or the
        GPU's compute capability) belongs in a manifest.

    Raises:
        UsageError: another precision than fp32 or fp16.
        MissingRequirement: no C++ compiler, or no CUDA device.
        GateFailed: torch.export gave a graph that is not as asked: batch fixed, batch norms left,
            layers missing.
        SessionFailed: the compiler failed.
    """
    refuse_if_not_compilable(precision, device)
    config = weights.config
    size = batch.opt if batch.static else max(2, batch.opt)  # an example of 1 would be specialised
    shape: tuple[int, ...] = (config.in_channels, *config.input_size)
    kind = "float32"
    if bake_preprocessing:
        shape, kind = (*config.input_size, config.in_channels), "uint8"
    example = torch.zeros(size, *shape, dtype=getattr(torch, kind), device=device)
    model: nn.Module = ChannelsLast(fold_batch_norms(load_model(weights)))
    if precision == "fp16":
        model = HalfInside(model)
    if bake_preprocessing:
        model = PixelInput(model, weights.preprocessing)
    with (
        torch.no_grad(),
        _quiet(),
        _compiler_errors(),
        toolchain(device),
        _temporary_cache() as cache,
    ):
        program = _traced(model.eval().to(device), example, batch)
        found = _layers(program)
        _check_as_asked(program, found, weights, batch, precision)
        # With one channel an image's layout can be read either way. Where the batch is symbolic,
        # Inductor (2.13) then takes the frozen stem's result for contiguous though its kernel gives
        # channels-last: wrong logits.
        frozen = device == "cpu" and (batch.static or config.in_channels > 1)
        target, flags = _target()
        files = _compiled(program, example, {"freezing": frozen, **target}, metadata or {})
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
            inputs=(TensorSpec(name=INPUT_NAME, dtype=kind, shape=(first, *shape)),),
            outputs=(
                TensorSpec(name=OUTPUT_NAME, dtype="float32", shape=(first, config.num_classes)),
            ),
            frozen=frozen,
            layers=found,
            kernels=_kernels(files),
        )
        _write(path, files, record, cache)
    return record


def refuse_if_not_compilable(precision: Precision, device: Literal["cpu", "cuda"]) -> None:
    """Check what can be known before any weights are loaded.

    Raises:
        UsageError: another precision than fp32 or fp16.
        MissingRequirement: PyTorch is too old, no C++ compiler, no CUDA device, or for CUDA no
            toolkit of it.
    """
    if precision not in _DTYPES:
        raise UsageError(f"a .pt2 package is made in {' or '.join(_DTYPES)}, not in {precision}")
    with _quiet():
        reason = obstacle(device)
    if reason is not None:
        raise MissingRequirement(reason)


def _traced(model: nn.Module, example: Tensor, batch: BatchRange) -> torch.export.ExportedProgram:
    dynamic = (
        None if batch.static else ({0: torch.export.Dim("batch", min=batch.min, max=batch.max)},)
    )
    return torch.export.export(model, (example,), dynamic_shapes=dynamic)


def _layers(program: torch.export.ExportedProgram) -> tuple[PackageLayer, ...]:
    """Convolutions and classifier of the graph, by the module that each came from."""
    found = []
    for node in program.graph.nodes:
        if op := _OPS.get(str(node.target)):
            # The innermost of the modules that the call came from: (path, class).
            module = [path for path, _ in node.meta["nn_module_stack"].values()][-1].replace(
                "model.", ""
            )
            dtypes = {
                str(value.meta["val"].dtype).removeprefix("torch.")
                for value in (node, *node.args[:2])
            }
            found.append(PackageLayer(module=module, op=op, dtype="+".join(sorted(dtypes))))
    return tuple(found)


def _check_as_asked(
    program: torch.export.ExportedProgram,
    found: tuple[PackageLayer, ...],
    weights: Weights,
    batch: BatchRange,
    precision: Precision,
) -> None:
    graph = program.graph
    (name,) = program.graph_signature.user_inputs
    first = next(node for node in graph.nodes if node.name == name).meta["val"].shape[0]
    if isinstance(first, int) != batch.static:
        raise GateFailed(
            f"torch.export fixed the batch at {first}; upgrade torch, or ask for a static --batch"
        )
    if left := [node for node in graph.nodes if "batch_norm" in str(node.target)]:
        raise GateFailed(
            f"{len(left)} batch norms were not folded into a convolution, first {left[0].name}"
        )
    wanted = {layer.name for layer in weighted_layers(weights.config)}
    if differ := sorted(wanted ^ {layer.module for layer in found}):
        raise GateFailed(
            f"torch.export lost or added {len(differ)} layers, first {differ[0]}; upgrade torch"
        )
    if odd := [layer for layer in found if layer.dtype != _DTYPES[precision]]:
        raise GateFailed(
            f"{len(odd)} layers are not {precision}, first {odd[0].module} with {odd[0].dtype}"
        )


def _target() -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options that choose the processor to compile for, and the features that such code may use."""
    from torch._inductor import list_options
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    host = cpu_flags()
    level = next((name for name, flags in _LEVELS.items() if host.issuperset(flags)), None)
    if level is None or "cpp.march" not in list_options():
        return {}, tuple(sorted(host))  # compiled for this very processor
    # PyTorch asks for more beside the level: -mavx512vnni, which the kernel calls avx512_vnni.
    asked = {
        flag.removeprefix("-m").replace("-", "")
        for flag in pick_vec_isa().build_arch_flags().split()
    }
    more = [flag for flag in host if flag.replace("_", "") in asked]
    return {"cpp.march": level}, tuple(sorted({*_LEVELS[level], *more}))


def _compiled(
    program: torch.export.ExportedProgram,
    example: Tensor,
    options: dict[str, Any],
    metadata: Mapping[str, str],
) -> list[Path]:
    """The files that AOTInductor makes of ``program``, in its cache folder."""
    from torch._inductor import aot_compile, list_options

    wanted = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": dict(metadata),  # a copy: Inductor adds to it
        "aot_inductor.model_name_for_generated_files": "resnext",
        "aot_inductor.enable_line_tables": False,  # source paths of this machine
        "aot_inductor.precompile_headers": (
            False
        ),  # costs more than it saves where each is used once
        "cpp.dynamic_threads": (
            True
        ),  # else the number of threads of this machine would be compiled in
        **options,
    }
    known = {key: value for key, value in wanted.items() if key in list_options()}
    with _lasting_names():
        files = aot_compile(program.module(), (example,), options=known)
    assert isinstance(files, list)  # since it was asked for a package
    return [Path(file) for file in files if isinstance(file, str)]


@contextmanager
def _lasting_names() -> Iterator[None]:
    """Let Inductor find the arrays that it has declared by the object that wrote them.

    PyTorch 2.11 remembers a bound method by its address, which the next one gets: the code then
    differs from export to export, and may name an array of another scope. 2.13 remembers the
    object.
    """
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    if not str(torch.__version__).startswith(("2.11.", "2.12.")):
        yield
        return
    original: Any = CppWrapperCpu.codegen_int_array_var
    kept: dict[
        Any, Any
    ] = {}  # methods bound to one object are equal, and the first is kept alive with its address

    def lasting(self: Any, int_array: str, writeline: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, int_array, kept.setdefault(writeline, writeline), *args, **kwargs)

    try:
        CppWrapperCpu.codegen_int_array_var = lasting  # type: ignore[method-assign]
        yield
    finally:
        CppWrapperCpu.codegen_int_array_var = original  # type: ignore[method-assign]


def _kernels(files: list[Path]) -> dict[str, int]:
    """Library kernels that the written code calls for convolutions and products."""
    text = "".join(
        file.read_text(encoding="utf-8") for file in files if file.name.endswith("wrapper.cpp")
    )
    return dict(Counter(_KERNEL.findall(text)))


def _write(path: Path, files: list[Path], record: PackageRecord, cache: Path) -> None:
    """Package library and metadata; the sources stay behind, since they tell of this machine.

    In the wrapper's place is a comment: PyTorch 2.11 finds the metadata by the name of that file,
    and does not read it.
    """
    from torch.export.pt2_archive import PT2ArchiveWriter
    from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR, EXTRA_DIR

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
    """Library without the folders that its assertions name and without the digest that hangs on
    them.

    The length stays, so the same export gives the same bytes wherever those folders' names are as
    long.
    """
    for folder in map(os.fsencode, folders):
        data = data.replace(folder, b"." * len(folder))
    return _BUILD_ID.sub(lambda found: found[1] + bytes(20), data, count=1)


@contextmanager
def _temporary_cache() -> Iterator[Path]:
    """A folder for everything that Inductor and Triton write, gone afterwards."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="resnext-pt2-") as folder:
        try:
            os.environ.update(dict(zip(names, (folder, f"{folder}/triton"), strict=True)))
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's own modules warn each other of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Full float32 was asked for; that TF32 would be faster is no news.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """Turn what Inductor and the C++ compiler raise into one line."""
    try:
        yield
    except MemoryError as exc:
        raise MissingRequirement(
            "out of memory while compiling the package; use a smaller --batch"
        ) from exc
    except (RuntimeError, OSError) as exc:  # OSError: CUDA's toolkit was not found
        text = f"{type(exc).__name__} {exc}"
        if any(
            sign in text
            for sign in ("CUDA_HOME", "cuda.h:", "cuda_runtime.h:", "cannot find -lcuda")
        ):
            raise MissingRequirement(
                "compiling a .pt2 package for CUDA needs the CUDA toolkit's headers and libcuda:"
                " install the toolkit, set CUDA_HOME to it, or compile for the processor:"
                " --device cpu"
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
                "a .pt2 package is compiled, and no working C++ compiler was found: apt-get install"
                " g++ (or set CXX), or use --format onnx"
            ) from exc
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        blamed = next((line for line in lines if "error:" in line), lines[0])
        raise SessionFailed(f"the package could not be compiled: {blamed[:300]}") from exc
