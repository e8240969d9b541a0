"""The configuration that a server made of a file, compared with the file.

A server completes configurations. What it adds must be its documented default; what the file says
must be as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from resnext.findings import Finding

from .served import Served

#: Values by field: ``instance_group[0].count``, ``parameters[threads].string_value``.
Fields: TypeAlias = Mapping[str, Any]

#: What the server may add to a field that the file leaves out, by the field's name without numbers;
#: of the written configuration. Documented in Triton's model configuration.
DEFAULTS: Mapping[str, Callable[[Served], tuple[Any, ...]]] = MappingProxyType(
    {
        "name": lambda model: (model.name,),
        "backend": lambda model: (model.backend,),
        "platform": lambda model: (
            model.known_backend.platform if model.known_backend is not None else "",
        ),
        # the program that a backend consists of; a stand-in's is Python
        "runtime": lambda model: ("model.py", f"libtriton_{model.backend}.so"),
        "default_model_filename": lambda model: (model.file,),
        "version_policy.latest.num_versions": lambda _: (1,),
        "optimization.input_pinned_memory.enable": lambda _: (True,),
        "optimization.output_pinned_memory.enable": lambda _: (True,),
        # without any, requests are batched up to the largest size
        "dynamic_batching.preferred_batch_size": lambda model: (
            ((model.config.max_batch_size,),) if model.config.HasField("dynamic_batching") else ()
        ),
        "model_transaction_policy": lambda _: ({},),
        "instance_group[].name": lambda model: (
            model.name,
            *(f"{model.name}_{index}" for index in range(len(model.config.instance_group) or 1)),
        ),
        # of ONNX Runtime two on the CPU, where the file has a group without a count
        "instance_group[].count": lambda model: (1, 2) if model.backend == "onnxruntime" else (1,),
        "model_warmup[].count": lambda _: (1,),
    }
)


def fields(message: Any, within: str = "") -> dict[str, Any]:
    """Every field of a protobuf message that is set and not empty, by its path."""
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        path = f"{within}.{descriptor.name}" if within else descriptor.name
        found.update(_of_field(descriptor, value, path))
    return found


def _of_field(descriptor: Any, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    kind = descriptor.message_type
    if kind is not None and kind.GetOptions().map_entry:
        for key in sorted(value):
            yield from _of_message(kind.fields_by_name["value"], value[key], f"{path}[{key}]")
    elif isinstance(value, str | bytes | int | float):
        yield from _of_message(descriptor, value, path)
    elif kind is None:
        yield path, tuple(_plain(descriptor, each) for each in value)
    elif hasattr(value, "ListFields"):
        yield from _of_message(descriptor, value, path)
    else:
        for index, each in enumerate(value):
            yield from _of_message(descriptor, each, f"{path}[{index}]")


def _of_message(descriptor: Any, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if descriptor.message_type is None:
        yield path, _plain(descriptor, value)
        return
    inner = fields(value, path)
    # That it is there at all may be what it says: dynamic_batching { }.
    yield from inner.items() if inner else [(path, {})]


def _plain(descriptor: Any, value: Any) -> Any:
    if descriptor.enum_type is None:
        return value
    named = descriptor.enum_type.values_by_number.get(value)
    return value if named is None else named.name


def silent_changes(model: Served, resolved: Any) -> Iterator[Finding]:
    """What the server made of a file and the file does not say.

    Args:
        model: as it lies on disk.
        resolved: the server's configuration (``inference.ModelConfig``).
    """
    written, told = fields(model.config), fields(resolved)
    for path in sorted(written.keys() | told.keys()):
        before, now = written.get(path), told.get(path)
        if before == now or (now is not None and _is_default(model, path, before, now)):
            continue
        if before == {} and any(other.startswith(f"{path}.") for other in told):
            continue  # an empty message that was filled: its fields are looked at themselves
        yield Finding(
            "config-changed",
            f"{path} is {_text(before)} in the file, and the server made it {_text(now)}",
            "write what you mean, or start the server with disable-auto-complete-config",
            where=model.at(*_steps(path)),
        )


def _is_default(model: Served, path: str, before: Any, now: Any) -> bool:
    """Whether the server may add ``now`` to a field that the file leaves out."""
    if before is not None:
        return False
    name = re.sub(r"\[\d+\]", "[]", path)
    allowed = DEFAULTS.get(name)
    if allowed is not None and now in allowed(model):
        return True
    # Of instances nothing is said: one for each GPU, or one on the CPU.
    return not model.config.instance_group and name in (
        "instance_group[].kind",
        "instance_group[].gpus",
    )


def _steps(path: str) -> tuple[str | int, ...]:
    """``path`` as `Served.at` takes it."""
    steps: list[str | int] = []
    for part in path.split("."):
        name, _, index = part.rstrip("]").partition("[")
        steps.append(name)
        if index and not index.isdigit():  # a map keeps no order
            return tuple(steps)
        steps.append(int(index or 0))
    return tuple(steps[:-1])


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "not set" if value is None else "empty"
    return f"[ {', '.join(map(str, value))} ]" if isinstance(value, tuple) else str(value)
