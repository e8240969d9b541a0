"""The OpenVINO library, imported without its telemetry, and this process's only core."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resnext.errors import BadArtifact, MissingRequirement, SessionFailed
from resnext.machine.faults import environment_fault


def _load_quietly() -> Any:
    """Import OpenVINO while hiding its telemetry package.

    Otherwise the import alone writes an identity into the home folder and reports to Google
    Analytics. OpenVINO works without that package.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # an import of it then fails
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            del sys.modules[telemetry]


#: The library; import it from here, never directly.
ov = _load_quietly()
properties, hints = ov.properties, ov.properties.hint
VERSION = ov.__version__.partition("-")[0]

#: NumPy's names of element types, by OpenVINO's.
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
}


@functools.lru_cache(maxsize=1)
def shared_core() -> Any:
    """The process's ``openvino.Core``, which is never released.

    Each core installs its own signal stack and restores the previous one when it is destroyed. If
    two are destroyed in the order in which they were made, the thread is left with a freed stack,
    and the next signal kills the process.
    """
    return ov.Core()


def fast_types() -> frozenset[str]:
    """Element types that OpenVINO has kernels for on this processor, as it calls them: ``BF16``."""
    return frozenset(shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def dtype_name(name: str) -> str:
    """NumPy's name of the element type that OpenVINO calls ``name``; others unchanged."""
    return _DTYPES.get(name, name)


def type_name(element_type: Any) -> str:
    """NumPy's name of an ``openvino.Type``."""
    return dtype_name(str(element_type.get_type_name()))


@contextmanager
def translated(kind: type[BadArtifact] | type[SessionFailed], action: str) -> Iterator[None]:
    """Turn OpenVINO's errors into one line.

    Args:
        kind: the error to raise; `MissingRequirement` if memory ran out.
        action: what failed, for the message.
    """
    out_of_memory = MissingRequirement(f"{action}: out of memory", hint="use a smaller `batch`")
    try:
        yield
    except MemoryError as exc:
        raise out_of_memory from exc
    except RuntimeError as exc:
        # Source positions come first, the reason last.
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(exc).__name__
        if "bad_alloc" in reason:
            raise out_of_memory from exc
        raise environment_fault(exc) or kind(f"{action}: {reason}") from exc
