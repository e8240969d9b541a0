"""TensorRT and TensorRT-RTX: all differences between the two, for builders and sessions.

``trt`` is always the imported module. Code elsewhere only uses names that both libraries have; a
test checks each against the lists of TensorRT 10, TensorRT 11 and TensorRT-RTX.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from resnext.errors import MissingRequirement, UsageError, first_line
from resnext.machine.cuda_driver import Driver
from resnext.machine.shared_libraries import load_problem

if TYPE_CHECKING:
    from resnext.artifact.records import EngineOptions

EngineKind = Literal["trt", "trt-rtx"]

#: Compute capabilities that TensorRT-RTX accepts as targets; a test compares them with the
#: installed library.
RTX_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
#: What it builds for by default, according to its documentation.
RTX_DEFAULT_TARGETS = "GPUs of compute capability 8.0, 8.6, 8.9, 12.0 and later"


@dataclass(frozen=True)
class CompiledKernels:
    """TensorRT-RTX's cache of the kernels that a context compiled.

    Attributes:
        cache: the library's cache; the context adds to it.
        config: the library's configuration that contains it; must live as long as the context.
        rejected: True if the library rejected the cache of an earlier process.
    """

    cache: Any
    config: Any
    rejected: bool

    def serialize(self) -> Any:
        """The cache as bytes."""
        return self.cache.serialize()


class Library(ABC):
    """One of the two libraries. Nothing is imported before `load`.

    Attributes:
        kind: name of the format, and ``kind`` in manifests.
        title: product name.
        package: Python package.
    """

    kind: ClassVar[EngineKind]
    title: ClassVar[str]
    package: ClassVar[Literal["tensorrt", "tensorrt_rtx"]]

    @property
    def version(self) -> str | None:
        """Version of the installed package, or None; read from metadata without an import. If the
        module is imported, it says its own.
        """
        own = getattr(sys.modules.get(self.package), "__version__", None)
        for name in (self.package, f"{self.package}_cu13", f"{self.package}_cu12"):
            try:
                installed = version(name)
            except PackageNotFoundError:
                continue
            return str(own or installed)
        return None

    @property
    def cuda(self) -> int | None:
        """Major version of CUDA that the installed libraries were built for, or None if no package
        says.
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
            MissingRequirement: it is not installed, or its shared libraries do not load.
        """
        try:
            return import_module(self.package)
        except ModuleNotFoundError as exc:
            raise MissingRequirement(
                f"{self.title} is not installed (no Python package {exc.name})",
                hint=f"pip install {self.package}",
            ) from exc
        except (ImportError, OSError) as exc:
            known = load_problem(exc)
            also = f"{known.hint}; or " if known else ""
            raise MissingRequirement(
                f"{self.title} is installed but does not load: {first_line(exc)}",
                hint=f"{also}install the package {self.package} again",
            ) from exc

    @abstractmethod
    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """Check that this library can build an engine with ``options`` on a machine with
        ``driver``.

        Raises:
            UsageError: the library does not have an option.
            MissingRequirement: it needs a GPU.
        """

    @abstractmethod
    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """Set the options that only this library has on the builder's ``config``."""

    @abstractmethod
    def runtime(self, trt: Any, logger: Any, options: EngineOptions) -> Any:
        """A Runtime that can load engines built with ``options``."""

    @abstractmethod
    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:
        """An execution context, and the cache of compiled kernels that it fills, or None if the
        library has no such cache.

        Args:
            engine: the loaded engine.
            cache: the cache of an earlier process.
        """

    def scratch_bytes(self, engine: Any, context: Any) -> int:  # noqa: ARG002  # TensorRT-RTX's
        """Device memory that the caller must provide to ``context`` once its shapes are set; 0 if
        the context allocates it.
        """
        return 0

    @abstractmethod
    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a CUDA graph of ``context`` can be captured on ``stream``."""


class TensorRT(Library):
    """TensorRT 10.13 and later, and 11: kernels are timed and chosen during the build, on this
    machine's GPU.
    """

    kind = "trt"
    title = "TensorRT"
    package = "tensorrt"

    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """Every option but ``targets``; a GPU is always needed."""
        if options.targets:
            raise UsageError(
                "`targets` is TensorRT-RTX's: TensorRT builds for this machine's GPU",
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
        """A version-compatible engine contains host code, which must be allowed."""
        runtime = trt.Runtime(logger)
        if options.compatibility == "version":
            runtime.engine_host_code_allowed = True
        return runtime

    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:  # noqa: ARG002  # RTX's
        """A plain context: all kernels are in the engine."""
        return engine.create_execution_context(), None

    def capturable(self, context: Any, stream: int) -> bool:  # noqa: ARG002  # RTX's
        """Always: the first, plain run has allocated everything."""
        return True


class TensorRTRTX(Library):
    """TensorRT-RTX 1.x: engines are built ahead of time, without a GPU; kernels are compiled on the
    machine that runs them.
    """

    kind = "trt-rtx"
    title = "TensorRT-RTX"
    package = "tensorrt_rtx"

    def check_can_build(self, options: EngineOptions, driver: Driver) -> None:
        """None of the options for choosing kernels; ``strip_weights`` needs a driver."""
        tensorrt_only = {
            "compatibility": options.compatibility != "none",
            "optimization_level": options.optimization_level is not None,
            "tiling_level": options.tiling_level is not None,
        }
        if wrong := [name for name, is_set in tensorrt_only.items() if is_set]:
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
        """Targets, and memory from the caller, which CUDA graphs require."""
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

    def runtime(self, trt: Any, logger: Any, options: EngineOptions) -> Any:  # noqa: ARG002  # TensorRT's
        """A plain runtime."""
        return trt.Runtime(logger)

    def context(self, engine: Any, cache: bytes | None) -> tuple[Any, CompiledKernels | None]:
        """A context that caches its compiled kernels, and starts from those of an earlier process
        if the library accepts them.
        """
        trt = self.load()
        config = engine.create_runtime_config()
        # By default, kernels for a shape are compiled in the background, and slower ones run until
        # they are ready: a CUDA graph would contain the slower ones forever, and a benchmark would
        # time a mixture.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        # Required by engines built with REQUIRE_USER_ALLOCATION; `scratch_bytes` is the amount.
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
        """For the current shapes, or the maximum over all shapes if the library cannot say."""
        return int(context.update_device_memory_size_for_shapes() or engine.device_memory_size_v2)

    def capturable(self, context: Any, stream: int) -> bool:
        """The library's answer."""
        return bool(context.is_stream_capturable(stream))


#: Both, by kind. ``trt`` means the first that is installed.
LIBRARIES: Mapping[EngineKind, Library] = MappingProxyType(
    {"trt": TensorRT(), "trt-rtx": TensorRTRTX()}
)


def library_of(package: Literal["tensorrt", "tensorrt_rtx"]) -> Library:
    """The library with this Python package."""
    return next(library for library in LIBRARIES.values() if library.package == package)


def library_for(name: EngineKind) -> Library:
    """The library that ``name`` means here: ``trt`` is TensorRT, or TensorRT-RTX if only that is
    installed.

    Raises:
        MissingRequirement: the library is not installed.
    """
    library = LIBRARIES[name]
    if library.version is None and name == "trt" and LIBRARIES["trt-rtx"].version is not None:
        return LIBRARIES["trt-rtx"]
    if library.version is None:
        other = " (or tensorrt_rtx, which builds without a GPU)" if name == "trt" else ""
        raise MissingRequirement(
            f"{library.title} is not installed", hint=f"pip install {library.package}{other}"
        )
    return library


def require_driver(library: Library, driver: Driver) -> None:
    """Check that there is a GPU before the library does: without a driver, TensorRT's Runtime
    crashes the process.

    Raises:
        MissingRequirement: no driver or no device; says what works here.
    """
    if driver.problem is not None:
        raise MissingRequirement(
            f"{library.title} runs on an NVIDIA GPU only: {driver.problem}",
            hint="on this machine build ahead of time with `format` trt-rtx; to run, use `backend`"
            " torch, torch-compile or ort-cpu",
        )
