"""Steps ``fused`` and ``autotune``: the whole network on our kernels against PyTorch, in the same
rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from resnext.kernels.network import Choose, First, fused_network

from .device import DTYPES, Bench, Forward, live, measure_group, placed
from .kernels import winners

#: Modes of torch.compile; graphs are captured here.
DEFAULT, AUTOTUNED = "default", "max-autotune-no-cudagraphs"
#: Seconds that a compilation of the whole network may take: with less, a group goes without.
COMPILE_S = 35.0

Make = Callable[[], tuple[Forward, int, str]]


def fused(bench: Bench) -> None:
    """Batch 64 first, alone: the number that matters most must not wait for a compiler. Then each
    batch against eager PyTorch, folded, and compiled.
    """
    plans = [("fp16", 64), ("fp16", 1), ("fp16", 8), ("fp16", 256), ("bf16", 64)]
    if bench.rehearse:
        plans = [("fp32", 2)]  # CPUs are slow in float16
    precision, batch = plans[0]
    alone: dict[str, Make] = {
        f"{precision} batch {batch} fused alone": partial(ours, bench, batch, precision),
        f"{precision} batch {batch} fused alone untuned": partial(
            ours, bench, batch, precision, First()
        ),
    }
    measure_group(bench, alone)
    for precision, batch in plans:
        start = f"{precision} batch {batch}"
        cells: dict[str, Make] = {
            f"{start} fused": partial(ours, bench, batch, precision),
            f"{start} torch": partial(live, bench, batch, precision, "channels-last"),
            f"{start} torch-folded": partial(
                live, bench, batch, precision, "channels-last", folded=True
            ),
        }
        against = f"{start} torch-folded"
        if bench.left_s > COMPILE_S:
            against = f"{start} compile folded"
            cells[against] = compiled(bench, batch, precision, DEFAULT)
        measure_group(bench, cells, plain=False, against=against)
        torch.compiler.reset()


def autotune(bench: Bench) -> None:
    """Against torch.compile with every kernel searched for, which takes minutes."""
    precision, batch = ("fp32", 2) if bench.rehearse else ("fp16", 64)
    start = f"{precision} batch {batch}"
    cells: dict[str, Make] = {
        f"{start} fused": partial(ours, bench, batch, precision),
        f"{start} compile folded": compiled(bench, batch, precision, DEFAULT),
        f"{start} max-autotune folded": compiled(
            bench, batch, precision, DEFAULT if bench.rehearse else AUTOTUNED
        ),
    }
    measure_group(bench, cells, plain=False, against=f"{start} max-autotune folded")


def ours(
    bench: Bench, batch: int, precision: str, choose: Choose | None = None
) -> tuple[Forward, int, str]:
    """The network on our kernels over ``batch`` images, with the tiles that the step ``kernels``
    found fastest unless ``choose`` says otherwise.
    """
    choose = winners(bench) if choose is None else choose
    network = fused_network(bench.weights(), batch, DTYPES[precision], choose)
    network.to(bench.device)
    return Forward(network, placed(bench, batch, precision, "channels-last")), batch, precision


def compiled(bench: Bench, batch: int, precision: str, mode: str) -> Make:
    """The folded network through torch.compile."""
    return partial(live, bench, batch, precision, "channels-last", folded=True, compiled=mode)
