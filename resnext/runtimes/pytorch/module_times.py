"""Times of the modules of an eager network on a CPU, from hooks around each of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from resnext.runtimes.session import DeliveredLayer, LayerTime
from resnext.timing.clock import now_ns

from .network import OPS


class ModuleRun(NamedTuple):
    """One call of a module.

    Attributes:
        layer: the module.
        ns: nanoseconds without those of the modules that it calls.
    """

    layer: DeliveredLayer
    ns: int


def run_modules(model: nn.Module, call: Callable[[], object]) -> list[ModuleRun]:
    """Run ``call``, which calls ``model`` once, and time each module.

    Returns:
        The modules in the order in which they end; one that is called several times is there as
        often.
    """
    runs: list[ModuleRun] = []
    # Of the modules that are running, outermost first: start, and time of what they have called.
    running: list[list[int]] = []

    def start(_module: nn.Module, _inputs: Any) -> None:
        running.append([now_ns(), 0])

    def end(name: str, op: str) -> Callable[[nn.Module, Any, Tensor], None]:
        modules = (name,) if op in OPS.values() else ()

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            ended = now_ns()
            started, inside = running.pop()
            if running:
                running[-1][1] += ended - started
            dtype = str(output.dtype).removeprefix("torch.")
            layer = DeliveredLayer(name, op, dtype, output.device.type, modules)
            runs.append(ModuleRun(layer, ended - started - inside))

        return hook

    hooks = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        hooks.append(module.register_forward_pre_hook(start))
        # Of a block, what remains is its own code: the addition of the shortcut.
        op = f"{kind} itself" if any(module.children()) else OPS.get(kind, kind)
        hooks.append(module.register_forward_hook(end(name or kind, op)))
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return runs


def median_times(runs: Sequence[Sequence[ModuleRun]]) -> tuple[LayerTime, ...]:
    """Each module's median over equal runs."""
    return tuple(
        LayerTime(each[0].layer, statistics.median(one.ns for one in each))
        for each in zip(*runs, strict=True)
    )
