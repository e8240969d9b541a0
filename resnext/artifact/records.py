"""What a manifest says of an engine or a package beyond an ONNX file: how it was built, for which
machine, and the precision of each layer.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from resnext.precision import Precision

from .specs import BatchRange, Strict, TensorSpec

#: Where an engine must load: this GPU model; any GPU from Ampere on; any GPU of the same compute
#: capability; any later version of TensorRT.
Compatibility = Literal["none", "ampere+", "same-cc", "version"]
TilingLevel = Literal["none", "fast", "moderate", "full"]
#: What to try if TensorRT refuses fp16 grouped convolutions, in order.
Fallback = Literal["merge-groups", "fp32-islands"]


LayersFrom = Literal["inspector", "build log", "nothing"]
#: Whose kernels a package for CUDA runs: Inductor's and PyTorch's, or the toolkit's own.
KernelsFrom = Literal["inductor", "fused"]

#: Layer types that are a convolution or matrix product.
_PRODUCT_KIND = re.compile(
    r"correlation|conv(?!er)|gemm|matrixmultiply|fullyconnected", re.IGNORECASE
)
#: Fused kernels are named after what they do, ``__myl_FcAddRelu_myl0_20``.
_PRODUCT_NAME = re.compile(r"__myl_(?:[A-Z][a-z0-9]*)*?(?:Corr|Fc)(?![a-z])")
_PRODUCT_TACTIC = re.compile(r"_(?:fprop|gemm)_")


class EngineOptions(Strict):
    """Build options of an engine.

    Attributes:
        profiles: optimization profiles: batch sizes that kernels are chosen for, each with an upper
            limit.
        tf32: float32 convolutions may round their inputs to TF32's 10-bit mantissas.
        workspace_mib: workspace limit of a layer, MiB; None for the library's default.
        optimization_level: builder optimization level, 0 to 5; None for the library's default.
        tiling_level: effort spent on kernels that keep tiles in the L2 cache; None for the
            library's default.
        compatibility: which other machines the engine must load on.
        strip_weights: leave the weights out; a refit puts them in.
        targets: compute capabilities that TensorRT-RTX builds for, for example ``sm_89``; empty for
            all from Ampere on.
        fallbacks: what to try, in order, if fp16 grouped convolutions are refused.
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
        """From the smallest to the largest batch of any profile, which may leave gaps between."""
        most = max(profile.max or 0 for profile in self.profiles)
        return BatchRange(
            min=min(profile.min for profile in self.profiles), opt=self.profiles[0].opt, max=most
        )


class EngineLayer(Strict):
    """One layer of an engine, after fusion by TensorRT.

    Attributes:
        name: TensorRT's name of the layer.
        kind: TensorRT's LayerType, for example ``correlation``, ``CaskConvolution`` or ``kgen``.
        nodes: names of the ONNX nodes that the layer came from, including those whose data it only
            casts or moves.
        dtype: element type that it computes in, by its name in NumPy or ml_dtypes, or ``tfloat32``
            or ``unknown``. If kernels are chosen later (TensorRT-RTX), ``float32`` may still be
            multiplied in TF32, unless the engine was built without it.
        inputs: input tensors without constants, for example ``float16 NHWC [-1,64,56,56]``.
        outputs: output tensors, in the same form.
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
        """It is known to be a convolution or matrix product, alone or fused with other layers."""
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
        cuda: major version of CUDA that the library was built for; None if its packages do not say.
        platform: operating system and processor, for example ``linux-x86_64``.
        gpu: name of the GPU that it was built on; None if there was none.
        compute_capability: of that GPU, for example ``9.0``, or None.
        cuda_driver: newest CUDA version that the driver supports, or None.
        options: the build options.
        refitted: weights were put into an engine that was built without them.
        done: fallbacks that were needed, each with the convolutions that it changed.
        build_s: time to parse and build, seconds.
        layers: the layers, as the library reports them.
        layers_from: source of ``layers``: the loaded engine (``inspector``), the builder (``build
            log``), or none (``nothing``), and then no layer is known.
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
    """One convolution or the classifier, in the graph that was compiled.

    Attributes:
        module: parameter prefix, for example ``layer1.0.conv2``.
        op: ``Conv`` or ``Gemm``.
        dtype: element type of its result and its weights.
        fused: computed by one of the toolkit's kernels; a block's projection and its last
            convolution are then one product.
    """

    module: str
    op: Literal["Conv", "Gemm"]
    dtype: str
    fused: bool = False


class PackageRecord(Strict):
    """What a package computes, and what it needs from the machine that runs it.

    Attributes:
        torch: version of PyTorch that compiled it.
        cuda: version of CUDA that this PyTorch was built for, or None.
        device: device that it runs on.
        platform: operating system and processor, for example ``linux-x86_64``.
        cpu_capability: PyTorch's name for the processor's vector instructions, for example
            ``AVX512``.
        cpu_flags: processor features that its code may use, by their names in the Linux kernel;
            empty if not known.
        gpu: name of the GPU that it was compiled on, or None.
        compute_capability: of that GPU, for example ``9.0``, or None.
        precision: element type of weights and activations.
        batch: batch sizes that it takes.
        inputs: inputs of the compiled function.
        outputs: outputs of the compiled function.
        frozen: weights were constants to the compiler, which laid them out for its kernels.
        layers: convolutions and classifier, in the graph that was compiled.
        kernels: number of calls to each library kernel, and to each of the toolkit's, in the
            compiled code.
        kernels_from: whose kernels were asked for.
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
    kernels_from: KernelsFrom = "inductor"

    def title(self) -> str:
        """Human-readable origin and target: ``PyTorch 2.13.0, AVX512, frozen``."""
        target = self.gpu or self.cpu_capability
        more = ", frozen" * self.frozen + ", fused kernels" * (self.kernels_from == "fused")
        return f"PyTorch {self.torch}, {target}{more}"

    def kernels_line(self) -> str:
        """Human-readable list of the kernels with their counts."""
        return ", ".join(f"{count} {kernel}" for kernel, count in sorted(self.kernels.items()))
