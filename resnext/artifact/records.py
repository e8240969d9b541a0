"""What an engine's manifest says beyond an ONNX file's: how it was built, for what machine, what
its layers got.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from resnext.runtimes.trt.layers import EngineLayer

from .specs import BatchRange

#: Levels of ``--compatibility``: this GPU model; any GPU from Ampere on; any GPU of the same
#: compute capability; any later version of TensorRT.
Compatibility = Literal["none", "ampere+", "same-cc", "version"]
TilingLevel = Literal["none", "fast", "moderate", "full"]
#: What may be done where TensorRT refuses fp16 grouped convolutions, in order.
Fallback = Literal["merge-groups", "fp32-islands"]


LayersFrom = Literal["inspector", "build log", "nothing"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineOptions(_Strict):
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


class EngineRecord(_Strict):
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
