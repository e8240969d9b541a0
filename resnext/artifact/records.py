"""What a manifest says of an engine or a package beyond an ONNX file: how it was built, for which
machine, and the precision of each layer.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from resnext.precision import Precision

from .specs import BatchRange, Strict, TensorSpec

#: Levels of ``--compatibility``: this GPU model; any GPU from Ampere on; any GPU of the same
#: compute capability; any later version of TensorRT.
Compatibility = Literal["none", "ampere+", "same-cc", "version"]
TilingLevel = Literal["none", "fast", "moderate", "full"]
#: What may be done where TensorRT refuses fp16 grouped convolutions, in order.
Fallback = Literal["merge-groups", "fp32-islands"]


LayersFrom = Literal["inspector", "build log", "nothing"]

#: Kinds of layers that are a convolution or matrix product.
_PRODUCT_KIND = re.compile(
    r"correlation|conv(?!er)|gemm|matrixmultiply|fullyconnected", re.IGNORECASE
)
#: Fused kernels are named after what they do, ``__myl_FcAddRelu_myl0_20``.
_PRODUCT_NAME = re.compile(r"__myl_(?:[A-Z][a-z0-9]*)*?(?:Corr|Fc)(?![a-z])")
_PRODUCT_TACTIC = re.compile(r"_(?:fprop|gemm)_")


class EngineOptions(Strict):
    """What was asked of the builder.

    Attributes:
        profiles: optimization profiles: batch sizes that kernels are chosen for, each with an upper
            limit.
        tf32: float32 convolutions may round their inputs to TF32's 10-bit mantissas.
        workspace_mib: memory that a layer may use for scratch, MiB; None for the library's default.
        optimization_level: how long to look for kernels, 0 to 5; None for the library's default.
        tiling_level: how long to look for kernels that keep tiles in the L2 cache; None for the
            library's default.
        compatibility: which other machines the engine must load on.
        strip_weights: leave the weights out; a refit puts them in.
        targets: compute capabilities that TensorRT-RTX builds for, as ``sm_89``; empty for every
            one from Ampere on.
        fallbacks: what may be done, in order, where fp16 grouped convolutions are refused.
    """

    profiles: tuple[BatchRange, ...] = Field(min_length=1)
    tf32: bool = False
    workspace_mib: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    tiling_level: TilingLevel | None = None
    compatibility: Compatibility = "none"
    strip_weights: bool = False
    targets: tuple[str, ...] = ()
    fallbacks: tuple[Fallback, ...] = ("merge-groups", "fp32-islands")

    @field_validator("profiles")
    @classmethod
    def _limited(cls, profiles: tuple[BatchRange, ...]) -> tuple[BatchRange, ...]:
        if any(profile.max is None for profile in profiles):
            raise ValueError("an optimization profile needs an upper limit")
        return profiles

    @property
    def batch(self) -> BatchRange:
        """From the smallest to the largest batch of any profile; there may be gaps between
        profiles.
        """
        most = max(profile.max or 0 for profile in self.profiles)
        return BatchRange(
            min=min(profile.min for profile in self.profiles), opt=self.profiles[0].opt, max=most
        )


class EngineLayer(Strict):
    """One layer of an engine, after TensorRT's own fusing.

    Attributes:
        name: TensorRT's name of it.
        kind: TensorRT's LayerType, for example ``correlation``, ``CaskConvolution`` or ``kgen``.
        nodes: names of the ONNX nodes that it came from; also those of which it only casts or moves
            data.
        dtype: element type that it computes in, by NumPy's or ml_dtypes's name, or ``tfloat32`` or
            ``unknown``. Where kernels are chosen later (TensorRT-RTX) ``float32`` may yet be
            multiplied in TF32, unless the engine was built without it.
        inputs: tensors without the constants, for example ``float16 NHWC [-1,64,56,56]``.
        outputs: likewise.
        tactic: name of the kernel, or "".
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str

    @property
    def multiplies(self) -> bool:
        """Whether it is known to be a convolution or matrix product, alone or with more fused to
        it.
        """
        return bool(
            _PRODUCT_KIND.search(self.kind)
            or _PRODUCT_NAME.match(self.name)
            or _PRODUCT_TACTIC.search(self.tactic)
        )


class EngineRecord(Strict):
    """Where and how an engine was built.

    Attributes:
        library: Python package of the builder.
        version: its version.
        cuda: major version of CUDA that the library was built for, or None where its packages do
            not say.
        platform: operating system and processor, as ``linux-x86_64``.
        gpu: name of the GPU that it was built on, or None where there was none.
        compute_capability: of that GPU, as ``9.0``, or None.
        cuda_driver: newest CUDA that its driver serves, or None.
        options: what was asked of the builder.
        refitted: True where weights were put into an engine that was built without.
        done: fallbacks that were needed, each with the convolutions that it changed.
        build_s: seconds that parsing and building took.
        layers: what each layer got, as the library reports it.
        layers_from: where that was read: from the loaded engine (``inspector``), from the builder
            (``build log``), or nowhere (``nothing``), and then no layer is known.
    """

    library: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    cuda: int | None
    platform: str
    gpu: str | None
    compute_capability: str | None
    cuda_driver: str | None
    options: EngineOptions
    refitted: bool = False
    done: tuple[str, ...] = ()
    build_s: float
    layers: tuple[EngineLayer, ...]
    layers_from: LayersFrom


class PackageLayer(Strict):
    """One convolution or the classifier, as the compiler was given it.

    Attributes:
        module: parameter prefix, for example ``layer1.0.conv2``.
        op: ``Conv`` or ``Gemm``.
        dtype: element type of its result; its weights have the same.
    """

    module: str
    op: Literal["Conv", "Gemm"]
    dtype: str


class PackageRecord(Strict):
    """What a package says of itself: what it computes, and what it needs of a machine.

    Attributes:
        torch: version of PyTorch that compiled it.
        cuda: version of CUDA that this PyTorch was built for, or None.
        device: what it runs on.
        platform: operating system and processor, as ``linux-x86_64``.
        cpu_capability: PyTorch's name of the processor's vector instructions, for example
            ``AVX512``.
        cpu_flags: features of the processor that its code may use, by the kernel's names; empty
            where not known.
        gpu: name of the GPU that it was compiled on, or None.
        compute_capability: of that GPU, as ``9.0``, or None.
        precision: of weights and activations.
        batch: batch sizes that it takes.
        inputs: of the compiled function.
        outputs: likewise.
        frozen: whether weights were constants to the compiler, which then laid them out for its
            kernels.
        layers: convolutions and classifier, in the graph that the compiler was given.
        kernels: library kernels that the compiled code calls for them, each with how often.
    """

    torch: str
    cuda: str | None
    device: Literal["cpu", "cuda"]
    platform: str
    cpu_capability: str
    cpu_flags: tuple[str, ...]
    gpu: str | None = None
    compute_capability: str | None = None
    precision: Precision
    batch: BatchRange
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    frozen: bool
    layers: tuple[PackageLayer, ...]
    kernels: dict[str, int]

    def title(self) -> str:
        """What it was made by and for, for people: ``PyTorch 2.13.0, AVX512, frozen``."""
        made_for = self.gpu or self.cpu_capability
        return f"PyTorch {self.torch}, {made_for}{', frozen' if self.frozen else ''}"

    def kernels_line(self) -> str:
        """The library kernels with their numbers, for people."""
        return ", ".join(f"{count} {kernel}" for kernel, count in sorted(self.kernels.items()))
