"""A machine whose ceilings are measured in no time."""

from __future__ import annotations

from typing import Any

import pytest

from resnext.machine.environment import Environment
from resnext_bench.limits import ceilings

#: What the process that measures answers.
ANSWER: dict[str, Any] = {
    "notes": [],
    "products": [
        {"precision": "fp32", "instructions": "avx512", "operations_per_s": 3e11},
        {"precision": "int8", "instructions": "amx", "operations_per_s": 5e12},
    ],
    "copy_bytes_per_s": 2.5e10,
    "launch_ns": 1500.0,
}
WITHOUT_AMX: dict[str, Any] = {
    "notes": [],
    "products": [{"precision": "int8", "instructions": "avx512_vnni", "operations_per_s": 1.4e12}],
}


def environment(cpu: str = "A processor") -> Environment:
    return Environment(
        cpu=cpu,
        physical_cores=2,
        memory_bytes=1 << 33,
        load_1min=0.0,
        governor=None,
        gpus=(),
        system="Linux",
        python="3.11.7",
        packages={},
    )


class Child:
    """In the place of the process that measures."""

    def __init__(self, **changes: Any) -> None:
        self.answer = {**ANSWER, **changes}
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        self.calls.append(arguments)
        return WITHOUT_AMX if len(arguments) > 2 else self.answer


def plant(monkeypatch: pytest.MonkeyPatch, amx: bool = False, **changes: Any) -> Child:
    child = Child(**changes)
    monkeypatch.setattr(ceilings, "run_measuring", child)
    monkeypatch.setattr(ceilings, "cpu_flags", lambda: frozenset({"amx_int8"} if amx else ()))
    return child
