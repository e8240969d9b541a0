"""Step ``kernels``: each kind of layer on our kernels, with every tile worth trying, against
PyTorch's libraries in the layouts and widths of groups that they like best.

A layer's ways take turns in the same rounds, each as one CUDA graph of several calls, so tensors
that fit into the L2 cache are read from there, as behind the layer before in a network. Each
output is held against float64, after the memory that it comes in was filled with NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from resnext.kernels.pointwise import ProductTile
from resnext.kernels.tiles import ConvChoice, ConvShape, ProductShape
from resnext.network.forms import fold_batch_norms

from .cases import (
    Case,
    Way,
    compile_all,
    conv_case,
    grouped_layers,
    pool_case,
    product_case,
    product_layers,
)
from .device import Bench, Forward, Queue, own_ceilings, poison, timed
from .rows import Row, read_rows

#: Calls in a graph, so that the distance of two events is the kernel's.
CALLS = 8
ROUNDS, ROUND_S = 3, 0.01
#: What a layer may lose against float64: the norm of the difference relative to the output's, and
#: the largest difference relative to the output's RMS. Rounding of inputs is not counted.
NORM_GATES = {"fp16": 1e-3, "bf16": 8e-3}
WORST_GATES = {"fp16": 0.02, "bf16": 0.16}
#: Seconds that a layer may take: with less, it is left out.
LAYER_S = 10.0


def kernels(bench: Bench) -> None:
    """Every kind of layer at batch 64, fp16, against what libraries do best; if time is left, in
    bf16, against all that libraries do, and at other batches.
    """
    with torch.no_grad():
        model = fold_batch_norms(bench.weights())
    convs, products = grouped_layers(bench.config), product_layers(bench.config)
    if bench.rehearse:
        convs, products = convs[1:2], products[3:4]
    first, *others = (2, 1) if bench.rehearse else (64, 1, 8, 256)

    def measure_convs(batch: int, precision: str, *, few: bool) -> None:
        for layer in convs:
            if bench.left_s > LAYER_S:
                make = partial(conv_case, bench, model, layer, few=few)
                _measure(bench, layer.name, batch, precision, make, again=not few)

    def measure_products(batch: int) -> None:
        for layer in products:
            if bench.left_s > LAYER_S:
                make = partial(product_case, bench, model, layer)
                _measure(bench, layer.name, batch, "fp16", make)

    measure_convs(first, "fp16", few=True)
    measure_products(first)
    _measure(bench, "pool", first, "fp16", partial(pool_case, bench, model))
    measure_convs(first, "bf16", few=True)
    measure_convs(first, "fp16", few=False)
    for batch in others:
        measure_convs(batch, "fp16", few=True)
        measure_products(batch)


def winner_cell(name: str, batch: int, precision: str) -> str:
    """Name of the row that tells which of our kernels was fastest."""
    return f"{precision} batch {batch} {name} winner"


class Winners:
    """Takes what `kernels` found fastest for the very shape, whatever the precision; else the first
    choice.

    Args:
        rows: of the acceptance, of this device and code.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._fastest = {
            tuple(row["shape"]): tuple(row["choice"])
            for row in rows
            if row["step"] == "kernels"
            and row["status"] == "ok"
            and "shape" in row
            and row["precision"] == "fp16"
        }

    def kept(self, shape: tuple[str | int, ...]) -> tuple[int, ...] | None:
        """Width and fields of the fastest tile; None if nothing of this shape was measured."""
        return self._fastest.get(shape)

    def conv(self, shape: ConvShape, choices: list[ConvChoice]) -> ConvChoice:
        """The fastest."""
        kept = self.kept(("conv", *shape))
        return next(
            (choice for choice in choices if (choice.width, *choice.tile) == kept), choices[0]
        )

    def product(self, shape: ProductShape, choices: list[ProductTile]) -> ProductTile:
        """The fastest."""
        kept = self.kept(("product", *shape))
        return next((tile for tile in choices if tuple(tile) == kept), choices[0])


def winners(bench: Bench) -> Winners:
    """What this device's rows say."""
    return Winners(row for row in read_rows(bench.rows) if row["device"] == bench.name)


def _measure(
    bench: Bench,
    name: str,
    batch: int,
    precision: str,
    make: Callable[[int, str], Case],
    *,
    again: bool = False,
) -> None:
    """Time the ways to run a layer in turns, and write a row for each and for our fastest.

    Args:
        bench: the device.
        name: of the layer.
        batch: images.
        precision: of activations and weights.
        make: makes the case.
        again: under another title, against more libraries, and of ours the fastest alone.
    """
    title = f"{name} (all libraries)" if again else name
    start = f"{precision} batch {batch} {title}"
    best = winner_cell(title, batch, precision)
    if not bench.wants(best):
        return
    with bench.guarded(best):
        case = make(batch, precision)
        if again or precision == "bf16":
            case = _fastest_alone(bench, case)
        ready = _prepared(bench, start, case)
        queues = {cell: queue for cell, (_, _, queue) in ready.items()}
        found = timed(bench, queues, rounds=ROUNDS, round_s=ROUND_S)
        _judge(bench, case, precision, ready, found, batch)
        _write_winner(bench, case, best, start, ready, found)


def _write_winner(
    bench: Bench,
    case: Case,
    best: str,
    start: str,
    ready: Mapping[str, tuple[Way, Forward, Queue]],
    found: Mapping[str, Row],
) -> None:
    """Write which of ours was fastest, and how many times faster than a library that computes the
    whole layer.
    """
    right = {cell: facts for cell, facts in found.items() if facts["status"] == "ok"}
    ours = {cell: facts for cell, facts in right.items() if ready[cell][0].choice is not None}
    if not ours:
        bench.write(best, "failed", error="no kernel of ours was right")
        return
    fastest = min(ours, key=lambda cell: float(ours[cell]["median_us"]))
    facts = {
        **ours[fastest],
        "shape": case.shape,
        "choice": ready[fastest][0].choice,
        "way": fastest.removeprefix(f"{start} "),
    }
    rivals = {
        facts["median_us"]: cell
        for cell, facts in right.items()
        if cell not in ours and ready[cell][0].rest is None
    }
    if rivals:
        least = min(rivals)
        facts["against"] = rivals[least].removeprefix(f"{start} ")
        facts["ratio"] = least / facts["median_us"]
    bench.write(best, **facts)


def _fastest_alone(bench: Bench, case: Case) -> Case:
    """The libraries' ways, and of ours the one that was fastest in float16."""
    kept = winners(bench).kept(case.shape)
    ways = {
        way: build
        for way, build in case.ways.items()
        if not way.startswith("ours") or kept is None or build().choice == kept
    }
    return Case(case.name, case.shape, ways, case.exact, case.values, case.macs)


def _prepared(bench: Bench, start: str, case: Case) -> dict[str, tuple[Way, Forward, Queue]]:
    """Every way that this device takes, captured; a library may refuse one."""
    wanted = {
        f"{start} {name}": (build, "failed" if name.startswith("ours") else "refused")
        for name, build in case.ways.items()
        if bench.wants(f"{start} {name}")
    }
    ways: dict[str, Way] = {}
    for cell, (build, status) in wanted.items():
        with bench.guarded(cell, status=status, tidy=False), torch.no_grad():
            ways[cell] = build()
    compile_all(bench, ways)
    ready = {}
    calls = CALLS if bench.cuda else 1
    for cell, way in ways.items():
        with bench.guarded(cell, status=wanted[cell][1], tidy=False):
            forward = Forward(partial(_repeated, way.call, calls), torch.empty(0))
            ready[cell] = way, forward, bench.queue(forward, graph=True)
    return ready


def _repeated(call: Callable[[], Tensor], calls: int, _: Tensor) -> Tensor:
    for _index in range(calls - 1):
        call()
    return call()


def _judge(
    bench: Bench,
    case: Case,
    precision: str,
    ready: Mapping[str, tuple[Way, Forward, Queue]],
    found: Mapping[str, Row],
    batch: int,
) -> None:
    """Hold what each way writes against float64, and write its row."""
    with torch.inference_mode():
        exact = case.exact()
        scale, norm = float(exact.square().mean().sqrt()), float(exact.norm())
    calls = CALLS if bench.cuda else 1
    own = own_ceilings(bench, precision)
    for cell, (way, forward, queue) in ready.items():
        facts = found[cell]
        facts |= {"status": "failed", "batch": batch, "precision": precision}
        with bench.guarded(cell, tidy=False), torch.inference_mode():
            for key in ("median_us", "p90_us"):
                facts[key] /= calls
            facts["round_medians_us"] = [one / calls for one in facts["round_medians_us"]]
            facts["floor_us"] = floor_us(case, precision)
            if own is not None:
                facts["own_floor_us"] = floor_us(case, precision, tb_s=own[0], tflops=own[1])
            poison(bench, forward)
            with bench.settings():
                queue.enqueue()
            bench.synchronize()
            got = forward.logits.double()
            got = got if way.rest is None else way.rest(got)
            wrong = got.sub_(exact)
            facts["norm_error"] = float(wrong.norm()) / norm
            facts["max_error"] = float(wrong.abs().max()) / scale
            # false for NaN
            right = (
                facts["norm_error"] <= NORM_GATES[precision]
                and facts["max_error"] <= WORST_GATES[precision]
            )
            error = (
                {}
                if right
                else {
                    "error": f"wrong output: {facts['norm_error']:.2g} of its norm,"
                    f" {facts['max_error']:.2g} of its RMS at worst"
                }
            )
            facts["status"] = "ok" if right else "failed"
            bench.write(cell, **facts, **error)


def floor_us(case: Case, precision: str, *, tb_s: float = 3.35, tflops: float = 800.0) -> float:
    """Least microseconds of a layer that goes through memory, with an H100's ceilings unless others
    are given.
    """
    width = torch.finfo({"fp16": torch.float16, "bf16": torch.bfloat16}[precision]).bits // 8
    return max(width * case.values / tb_s / 1e6, 2 * case.macs / tflops / 1e6)
