"""In a child process: import modules, and say which version was imported, and from where."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any


def answers(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Import each of ``names``.

    Yields:
        ``version`` and ``file`` of the module, for those with CUDA ``cuda`` and ``providers``; or
        ``error`` and ``kind``, if it does not load.
    """
    # Its import alone would report to its maker; OpenVINO works without.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import resnext  # noqa: F401  # turns off ONNX Runtime's telemetry

    for name in names:
        try:
            module = import_module(name)
        except BaseException as exc:
            yield {"error": " ".join(str(exc).split())[:500], "kind": type(exc).__name__}
            continue
        yield {"version": _text(module, "__version__"), "file": _text(module, "__file__")} | _cuda(
            module
        )


def _cuda(module: Any) -> dict[str, Any]:
    if module.__name__ == "torch":
        return {"cuda": module.version.cuda}
    if module.__name__ == "onnxruntime":
        cuda = getattr(module, "cuda_version", None) or None
        return {"cuda": cuda, "providers": list(module.get_available_providers())}
    return {}


def _text(module: Any, name: str) -> str | None:
    value = getattr(module, name, None)
    return None if value is None else str(value)
