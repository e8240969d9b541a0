"""Opens an engine, or says why TensorRT or TensorRT-RTX cannot build or run one here."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.findings import Finding
from resnext.machine.machine import Machine, this_machine
from resnext.runtimes.buffers import CudaMemory
from resnext.runtimes.loading import refuse
from resnext.runtimes.registry import Device, SessionOptions

from .compatibility import loadable, serves, with_library
from .library import EngineKind, library_for, library_of, require_driver
from .session import TrtSession


def open_session(subject: Artifact, options: SessionOptions, name: str) -> TrtSession:
    """Open an engine.

    Raises:
        UsageError: the artifact is no engine, or was built by the other library.
        MissingRequirement: no GPU, driver or library, or not those that the engine was built for;
            says what to do.
        BadArtifact: the engine does not agree with its manifest.
        SessionFailed: the library cannot load it.
    """
    manifest = subject.manifest
    if manifest.engine is None or (name == "trt-rtx" and manifest.kind != name):
        raise UsageError(
            f"backend {name!r} runs an engine, and {subject.directory} is of kind {manifest.kind}",
            hint=f"build one from it: `format` {name}, `onnx` {subject.directory}",
        )
    library = library_of(manifest.engine.library)
    machine = this_machine()
    require_driver(library, machine.driver)
    refuse("engine", loadable(manifest, with_library(machine, library)))
    return TrtSession(subject, options, name, library, library.load(), CudaMemory())


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """What the library lacks here; unless ``prebuilt``, also whether it builds for the GPU."""
    del device  # there is only one
    kind: EngineKind = "trt-rtx" if name == "trt-rtx" else "trt"
    library = library_for(kind)
    require_driver(library, machine.driver)
    if prebuilt or serves(library, machine.driver):
        return None
    gpu = machine.driver.gpus[0]
    return Finding(
        "unsupported-gpu",
        f"{library.title} does not take {gpu.name} (compute capability {gpu.compute_capability})",
        f"use `backend` {'trt' if kind == 'trt-rtx' else 'ort-cuda'}",
    )
