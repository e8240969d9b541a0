"""TensorRT and TensorRT-RTX: everything in which the two differ, for builders and for sessions.

``trt`` is always the imported library. The code that uses it elsewhere sticks to names that every
flavour has; a test holds each name against the lists of TensorRT 10, TensorRT 11 and TensorRT-RTX.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from resnext.errors import MissingRequirement, UsageError
from resnext.machine.cuda_driver import Driver

if TYPE_CHECKING:
    from resnext.artifact.records import EngineOptions

EngineKind = Literal["trt", "trt-rtx"]

#: Compute capabilities that TensorRT-RTX names as targets; a test holds this against the installed
#: library.
RTX_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
#: What it builds for where none is named, by its documents.
RTX_DEFAULT_TARGETS = "GPUs of compute capability 8.0, 8.6, 8.9, 12.0 and later"


@dataclass(frozen=True)
class CompiledKernels:
    """TensorRT-RTX's cache of the kernels that a context compiled.

    Attributes:
        cache: the library's cache; the context adds to it.
        config: the library's configuration that holds it, kept for as long as the context.
        rejected: True where the library would not take what an earlier process kept.
    """

    cache: Any
    config: Any
    rejected: bool

    def serialize(self) -> Any:
        """The library's bytes of it."""
        return self.cache.serialize()


class Flavour(ABC):
    """One of the two libraries. Nothing is imported before `load`.

    Attributes:
        kind: format name, and the kind of a manifest.
        title: the product's name.
        package: the Python package.
    """

    kind: ClassVar[EngineKind]
    title: ClassVar[str]
    package: ClassVar[Literal["tensorrt", "tensorrt_rtx"]]

    @property
    def version(self) -> str | None:
        """Version of the installed package, or None; read from metadata, nothing is imported."""
        for name in (self.package, f"{self.package}_cu13", f"{self.package}_cu12"):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return None

    @property
    def cuda(self) -> int | None:
        """Major version of CUDA that the installed libraries were built for, or None where no
        package says.
        """
        for major in (12, 13, 14):
            try:
                version(f"{self.package}_cu{major}_libs")
            except PackageNotFoundError:
                continue
            return major
        return None

    def load(self) -> Any:
        """Import the library.

        Raises:
            MissingRequirement: it is not installed, or its own libraries do not load.
        """
        try:
            return import_module(self.package)
        except ModuleNotFoundError as exc:
            raise MissingRequirement(
                f"{self.title} is not installed (no Python package {exc.name})",
                hint=f"pip install {self.package}",
            ) from exc
        except (ImportError, OSError) as exc:
            raise MissingRequirement(
                f"{self.title} is installed but does not load: {exc}",
                hint=f"install the package {self.package} again",
            ) from exc

    @abstractmethod
    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """Check that this library can build an engine with ``options`` on a machine with
        ``driver``.

        Raises:
            UsageError: an option that this library does not have.
            MissingRequirement: it needs a GPU.
        """

    @abstractmethod
    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """Set on the builder's ``config`` what only this library has."""

    @abstractmethod
    def runtime(self, trt: Any, logger: Any, options: EngineOptions) -> Any:
        """A Runtime that may load engines built with ``options``."""

    @abstractmethod
    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:
        """An execution context, and the cache of compiled kernels that it fills, or None where
        there is no such cache.

        Args:
            engine: the loaded engine.
            cache: what an earlier process kept of that cache.
        """

    def scratch_bytes(self, engine: Any, context: Any) -> int:  # noqa: ARG002  # for a library that wants to be given it
        """Device memory that the caller must give to ``context``, once its shapes are set; 0 where
        it has its own.
        """
        return 0

    @abstractmethod
    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a CUDA graph may be captured of ``context`` on ``stream``."""


class TensorRT(Flavour):
    """TensorRT 10.13 and later, and 11: kernels are timed and chosen when the engine is built, on
    the GPU at hand.
    """

    kind = "trt"
    title = "TensorRT"
    package = "tensorrt"

    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """Every option but ``targets``; a GPU is always needed."""
        if options.targets:
            raise UsageError(
                "`targets` is TensorRT-RTX's: TensorRT builds for the GPU at hand",
                hint="see `compatibility`",
            )
        if driver.problem is not None:
            raise MissingRequirement(
                f"TensorRT builds on a GPU only: {driver.problem}",
                hint="without one, build ahead of time with `format` trt-rtx and `targets` sm_89"
                " (pip install tensorrt_rtx)",
            )

    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """Hardware and version compatibility."""
        levels = trt.HardwareCompatibilityLevel
        if options.compatibility == "ampere+":
            config.hardware_compatibility_level = levels.AMPERE_PLUS
        elif options.compatibility == "same-cc":
            config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
        elif options.compatibility == "version":
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)

    def runtime(self, trt: Any, logger: Any, options: EngineOptions) -> Any:
        """A version-compatible engine carries code of its own, which must be allowed."""
        runtime = trt.Runtime(logger)
        if options.compatibility == "version":
            runtime.engine_host_code_allowed = True
        return runtime

    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:  # noqa: ARG002  # RTX's
        """A plain context: all kernels are in the engine."""
        return engine.create_execution_context(), None

    def capturable(self, context: Any, stream: int) -> bool:  # noqa: ARG002  # asked of the library on RTX only
        """Always: the first, plain run has allocated everything."""
        return True


class TensorRTRTX(Flavour):
    """TensorRT-RTX 1.x: engines are built ahead of time, without a GPU; kernels are compiled where
    they run.
    """

    kind = "trt-rtx"
    title = "TensorRT-RTX"
    package = "tensorrt_rtx"

    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """No kernel is chosen here, so no option about choosing them; refitting needs a driver."""
        asked = {
            "compatibility": options.compatibility != "none",
            "optimization_level": options.optimization_level is not None,
            "tiling_level": options.tiling_level is not None,
        }
        if wrong := [name for name, given in asked.items() if given]:
            raise UsageError(
                f"`{wrong[0]}` is TensorRT's: TensorRT-RTX chooses kernels on the machine that runs"
                " the engine",
                hint="name the GPUs with `targets`",
            )
        if unknown := [target for target in options.targets if target not in RTX_TARGETS]:
            raise UsageError(
                f"TensorRT-RTX has no target {unknown[0]}; known: {', '.join(RTX_TARGETS)}"
            )
        if options.strip_weights and driver.problem is not None:
            raise MissingRequirement(
                f"TensorRT-RTX builds refittable engines with a driver only: {driver.problem}",
                hint="without one, drop `strip_weights`",
            )

    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """Targets, and memory given by the caller, without which no CUDA graph can be captured."""
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if options.targets:
            config.num_compute_capabilities = len(options.targets)
            for index, target in enumerate(options.targets):
                capability = getattr(trt.ComputeCapability, target.replace("sm_", "SM"), None)
                if capability is None or not config.set_compute_capability(capability, index):
                    raise UsageError(
                        f"TensorRT-RTX {self.version} does not build for {target}",
                        hint="leave it out of `targets`",
                    )

    def runtime(self, trt: Any, logger: Any, options: EngineOptions) -> Any:  # noqa: ARG002  # the same for all
        """A plain runtime."""
        return trt.Runtime(logger)

    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:
        """A context that keeps the kernels that it compiles, starting from those of an earlier
        process where it can.
        """
        trt = self.load()
        config = engine.create_runtime_config()
        # The default compiles a shape's own kernels in the background and runs slower ones until
        # they are there: a CUDA graph would keep the slower ones for good, and a benchmark would
        # time a mixture.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        # What an engine built with REQUIRE_USER_ALLOCATION asks for; `scratch_bytes` says how much.
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        kernels = config.create_runtime_cache()
        rejected = cache is not None and not kernels.deserialize(cache)
        if rejected:  # written with another driver, GPU or version
            kernels = config.create_runtime_cache()
        config.set_runtime_cache(kernels)
        return engine.create_execution_context(config), CompiledKernels(kernels, config, rejected)

    def scratch_bytes(self, engine: Any, context: Any) -> int:
        """For the shapes that are set; the most that any shape needs, where the library cannot
        say.
        """
        return int(context.update_device_memory_size_for_shapes() or engine.device_memory_size_v2)

    def capturable(self, context: Any, stream: int) -> bool:
        """As the library says."""
        return bool(context.is_stream_capturable(stream))


#: Both, by kind. The first that is installed is what ``trt`` means.
FLAVOURS: Mapping[EngineKind, Flavour] = MappingProxyType(
    {"trt": TensorRT(), "trt-rtx": TensorRTRTX()}
)


def flavour_of(library: Literal["tensorrt", "tensorrt_rtx"]) -> Flavour:
    """The flavour of an engine, by the Python package that built it."""
    return next(flavour for flavour in FLAVOURS.values() if flavour.package == library)


def flavour_for(name: EngineKind) -> Flavour:
    """The library that ``name`` means here: ``trt`` is TensorRT, or TensorRT-RTX where only that is
    installed.

    Raises:
        MissingRequirement: what was asked for is not installed.
    """
    wanted = FLAVOURS[name]
    if wanted.version is None and name == "trt" and FLAVOURS["trt-rtx"].version is not None:
        return FLAVOURS["trt-rtx"]
    if wanted.version is None:
        other = " (or tensorrt_rtx, which builds without a GPU)" if name == "trt" else ""
        raise MissingRequirement(
            f"{wanted.title} is not installed", hint=f"pip install {wanted.package}{other}"
        )
    return wanted


def require_driver(flavour: Flavour, driver: Driver) -> None:
    """Check that there is a GPU, before the library does: without a driver, a runtime of TensorRT
    crashes the process.

    Raises:
        MissingRequirement: no driver or no device; says what works here.
    """
    if driver.problem is not None:
        raise MissingRequirement(
            f"{flavour.title} runs on an NVIDIA GPU only: {driver.problem}",
            hint="on this machine build ahead of time with `format` trt-rtx and `target` sm_89; to"
            " run, use `backend` torch, torch-compile or ort-cpu",
        )
