"""The device that the acceptance measures on: streams, graphs, rounds, parity, the floor; light
modules alone.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext.images.synthetic import seeded_pixels
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.forms import fold_batch_norms, merge_model_groups
from resnext.network.model import ResNeXt
from resnext.timing.clock import time_device, time_host
from resnext.weights.conditioned import seeded_state_dict
from resnext_bench.limits.floors import Ceiling, floors

from .rows import (
    DEVICE_LOST,
    Row,
    append_row,
    code_digest,
    first_line,
    read_rows,
    under_way_path,
    write_whole,
)

ROUNDS, ROUND_S = 5, 0.1
#: Rows of a batch that are held against float64.
COMPARED = 16
#: What a precision may lose, relative to the RMS of the logits; a wrong kernel loses more than the
#: whole of it.
GATES = {"fp16": 0.05, "bf16": 0.4, "fp32": 1e-4, "tf32": 0.05}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}
#: What a rehearsal runs in the place of ResNeXt-50: all four stages, narrow groups, seconds on a
#: CPU.
SMALL = ResNeXtConfig(
    (1, 1, 1, 1), cardinality=4, bottleneck_width=4, input_size=(64, 64), num_classes=10
)


class Bench:
    """The device, the cache, and where rows go.

    Args:
        step: name of the step.
        rows: file that rows are appended to.
        cache: folder for weights and references, shared by all steps.
        rehearse: run small, on a CPU.
        resume: leave out cells that this file has a good row of, of the same code and device.
        skip: cells to leave out, because an earlier process of this run has a row of them.
        deadline: on the monotonic clock, when the step is stopped.
    """

    def __init__(
        self,
        step: str,
        rows: Path,
        cache: Path,
        *,
        rehearse: bool,
        resume: bool,
        skip: Iterable[str] = (),
        deadline: float = math.inf,
    ) -> None:
        self.step, self.rehearse, self._deadline = step, rehearse, deadline
        self.cuda = torch.cuda.is_available() and not rehearse
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.config = SMALL if rehearse else VARIANTS["resnext50_32x4d"]
        self.rows, self.cache = rows, cache
        self.name = torch.cuda.get_device_name() if self.cuda else "cpu (rehearsal)"
        self._code, self._began = code_digest(), time.monotonic()
        self._done = (
            {row["cell"] for row in read_rows(rows) if self._is_good(row)} if resume else set()
        ) | set(skip)
        self._under_way: tuple[str, ...] = ()
        self._stream: Any = torch.cuda.Stream() if self.cuda else None  # type: ignore[no-untyped-call]  # torch's
        cache.mkdir(parents=True, exist_ok=True)

    def _is_good(self, row: Row) -> bool:
        ours = (row["step"], row["code"], row["device"]) == (self.step, self._code, self.name)
        return ours and row["status"] == "ok"

    def wants(self, cell: str) -> bool:
        """Whether ``cell`` has still to be measured."""
        return cell not in self._done

    def write(self, cell: str, status: str = "ok", **facts: Any) -> None:
        """Append one row: one system call, so that a kill leaves it whole or not at all."""
        row = {
            "step": self.step,
            "cell": cell,
            "status": status,
            "device": self.name,
            "code": self._code,
            "after_s": round(time.monotonic() - self._began, 1),
            **facts,
        }
        append_row(self.rows, row)

    @contextmanager
    def guarded(self, *cells: str, status: str = "failed", tidy: bool = True) -> Iterator[None]:
        """Turn an error into a row for each of ``cells``.

        Args:
            cells: what is under way.
            status: of the rows that an error leaves.
            tidy: give memory back behind it, which takes a tenth of a second.

        Raises:
            SystemExit: the device takes nothing more in this process; the next one goes on behind
                these cells.
        """
        outer = self._under_way
        self._note(cells)
        try:
            yield
        except Exception as exc:  # whatever a library raises: the next cells go on
            traceback.print_exc()  # into the log: the row holds one line
            error = first_line(exc)
            lost = self._is_lost()
            for cell in cells:
                self.write(cell, "failed" if lost else status, error=error)
            if lost:
                raise SystemExit(DEVICE_LOST) from exc
        finally:
            if tidy:
                gc.collect()
            if tidy and self.cuda:
                with suppress(Exception):  # after an error that stays, every call raises
                    torch.cuda.empty_cache()
        self._note(outer)

    def _note(self, cells: tuple[str, ...]) -> None:
        """Note what is under way, for whoever finds this process dead."""
        self._under_way = cells
        write_whole(under_way_path(self.cache, self.step), json.dumps(cells))

    def _is_lost(self) -> bool:
        if not self.cuda:
            return False
        try:
            torch.cuda.synchronize()
        except Exception:  # of whatever type this release's is
            return True
        return False

    @property
    def left_s(self) -> float:
        """Seconds until the step is stopped."""
        return self._deadline - time.monotonic()

    def settings(self, *, tf32: bool = False) -> AbstractContextManager[Any]:
        """The stream, cuDNN's search, and TF32 as asked for."""
        if not self.cuda:
            return nullcontext()
        return _cuda_settings(self._stream, tf32=tf32)

    def queue(self, call: Callable[[], object], *, graph: bool, tf32: bool = False) -> Queue:
        """``call`` ready to be timed: warm, and captured in a CUDA graph if ``graph``."""
        if self.cuda:
            # inputs were made on the default stream, which ours does not wait for
            torch.cuda.synchronize()
        with self.settings(tf32=tf32):
            for _ in range(3):
                call()
            self.synchronize()
        if not (self.cuda and graph):
            return Queue(self, call, tf32=tf32)
        recorded = torch.cuda.CUDAGraph()
        with (
            self.settings(tf32=tf32),
            torch.cuda.graph(recorded, stream=self._stream, capture_error_mode="thread_local"),
        ):
            call()
        with torch.cuda.stream(self._stream):
            recorded.replay()
        self.synchronize()
        return Queue(self, recorded.replay, tf32=tf32)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            self._stream.synchronize()

    @property
    def stream(self) -> int | None:
        """Handle of the stream, None on a CPU."""
        return int(self._stream.cuda_stream) if self.cuda else None

    def weights(self) -> ResNeXt:
        """The seeded network, float32 on the CPU; made once for all steps of this code."""
        path = self.cache / f"weights-{'small' if self.rehearse else 'resnext50'}-{self._code}.pt"
        if not path.is_file():
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(seeded_state_dict(self.config, 0), part)
            part.replace(path)
        with torch.device("meta"):
            model = ResNeXt(self.config)
        model.load_state_dict(torch.load(path, weights_only=True), assign=True)
        return model.eval().requires_grad_(False)

    @cached_property
    def images(self) -> Tensor:
        """Seeded images, float32, normalized, for the largest batch; the first ones are held
        against float64.
        """
        pixels = seeded_pixels(self.config, COMPARED)
        first = (
            torch.from_numpy(pixels)
            .permute(0, 3, 1, 2)
            .float()
            .sub(114.75)
            .div(57.375)
            .contiguous()
        )
        return first.repeat(16, 1, 1, 1)

    @cached_property
    def reference(self) -> Tensor:
        """Float64 logits of the first images, by eager PyTorch on the CPU; computed once for all
        steps.
        """
        path = (
            self.cache / f"reference-{'small' if self.rehearse else 'resnext50'}-{self._code}.npy"
        )
        if not path.is_file():
            with torch.inference_mode():
                logits = self.weights().double()(self.images[:COMPARED].double())
            part = path.with_suffix(f".{os.getpid()}.npy")
            np.save(part, logits.numpy())
            part.replace(path)
        return torch.from_numpy(np.load(path))

    def error(self, logits: Tensor) -> Row:
        """How far ``logits`` of the first images are from float64's."""
        got = logits.detach()[:COMPARED].double().cpu()
        want = self.reference[: len(got)]
        scale = float(want.square().mean().sqrt())
        worst = (
            float((got - want).abs().max()) / scale
            if bool(torch.isfinite(got).all())
            else float("nan")
        )
        agree = float((got.argmax(1) == want.argmax(1)).double().mean())
        return {"max_error": worst, "top1": agree}


class Queue:
    """One call or captured graph, as the clock wants it."""

    def __init__(self, bench: Bench, launch: Callable[[], object], *, tf32: bool) -> None:
        self._bench, self._launch, self._tf32 = bench, launch, tf32

    @property
    def cuda_stream(self) -> int | None:
        """The bench's stream."""
        return self._bench.stream

    def enqueue(self) -> None:
        """Launch."""
        self._launch()

    def synchronize(self) -> None:
        """Wait."""
        self._bench.synchronize()

    def times_ns(self, count: int) -> list[int]:
        """Of each of ``count`` runs: between events on CUDA, by the host's clock on a CPU."""
        with self._bench.settings(tf32=self._tf32):
            return (
                time_device(self, count)[0] if self._bench.cuda else time_host(self._launch, count)
            )


def timed(
    bench: Bench, queues: Mapping[str, Queue], *, rounds: int = ROUNDS, round_s: float = ROUND_S
) -> dict[str, Row]:
    """Median and p90 of each, in rounds that take turns, with the card's clock and throttling in
    the last round.
    """
    seconds = min(round_s, 0.02) if bench.rehearse else round_s
    counts = {name: _count(queue, seconds) for name, queue in queues.items()}
    taken: dict[str, list[list[int]]] = {name: [] for name in queues}
    state: dict[str, Row] = {}
    for _ in range(rounds):
        for name, queue in queues.items():
            taken[name].append(queue.times_ns(counts[name]))
            state[name] = gpu_state() if bench.cuda else {}
    found = {}
    for name, samples in taken.items():
        values = sorted(value for part in samples for value in part)
        medians = [statistics.median(part) for part in samples]
        found[name] = {
            "median_us": statistics.median(values) / 1e3,
            "p90_us": values[min(len(values) - 1, int(0.9 * len(values)))] / 1e3,
            "round_medians_us": [median / 1e3 for median in medians],
            "samples": len(values),
            **state[name],
        }
    return found


def _count(queue: Queue, seconds: float) -> int:
    queue.times_ns(1)
    estimate_ns = max(1, statistics.median(queue.times_ns(3)))
    return int(max(3, min(2000, seconds * 1e9 / estimate_ns)))


@contextmanager
def _cuda_settings(stream: Any, *, tf32: bool) -> Iterator[None]:
    # As `full_float32` of the sessions, which needs pydantic, and with TF32 to choose.
    product = torch.backends.cuda.matmul
    before = product.allow_tf32
    with (
        torch.inference_mode(),
        torch.cuda.stream(stream),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32
        ),
    ):
        product.allow_tf32 = tf32
        try:
            yield
        finally:
            product.allow_tf32 = before


def laid_out(bench: Bench, model: nn.Module, precision: str, layout: str) -> nn.Module:
    """``model`` on the device."""
    with (
        bench.settings() if bench.cuda else torch.no_grad(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        moved = model.to(bench.device, DTYPES[precision])
        moved.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]  # torch's stub leaves this form out
    bench.synchronize()
    return moved


def placed(bench: Bench, batch: int, precision: str, layout: str) -> Tensor:
    """The first ``batch`` images on the device."""
    images = bench.images[:batch].to(bench.device, DTYPES[precision])
    return images.contiguous(memory_format=LAYOUTS[layout])


class Forward:
    """A network over fixed images; keeps what it gave, which is where a captured graph writes."""

    def __init__(self, run: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self.run, self.images = run, images
        self.logits: Tensor = torch.empty(0)

    def __call__(self) -> None:
        """Run once."""
        with torch.inference_mode():
            self.logits = self.run(self.images)


def measure_group(
    bench: Bench,
    cells: Mapping[str, Callable[[], tuple[Forward, int, str]]],
    *,
    plain: bool = True,
    against: str | None = None,
) -> None:
    """Capture every cell of a group, time them in turns, check what the replays left, write a row
    for each.

    Args:
        bench: the device.
        cells: by name, what makes the forward, its batch and precision.
        plain: also time plain launches.
        against: the cell that others are compared with, in the same rounds.
    """
    wanted = {name: make for name, make in cells.items() if bench.wants(name)}
    ready: dict[str, tuple[Forward, int, str, Queue, bool]] = {}
    for name, make in wanted.items():
        with bench.guarded(name):
            forward, batch, precision = make()
            try:
                queue, graph = bench.queue(forward, graph=True), bench.cuda
            except (
                Exception
            ) as exc:  # numbers of plain launches still stand if capturing is what fails
                if not bench.cuda:
                    raise
                traceback.print_exc()
                bench.write(f"{name} (capture)", "failed", error=first_line(exc))
                torch.cuda.synchronize()
                queue, graph = bench.queue(forward, graph=False), False
            ready[name] = forward, batch, precision, queue, graph
    with bench.guarded(*ready):
        found = timed(bench, {name: entry[3] for name, entry in ready.items()}) if ready else {}
        if against in found:
            for facts in found.values():
                facts["against"] = against
                facts["ratio"] = found[against]["median_us"] / facts["median_us"]
        _write_group(bench, ready, found, plain=plain)


def _write_group(
    bench: Bench,
    ready: Mapping[str, tuple[Forward, int, str, Queue, bool]],
    found: Mapping[str, Row],
    *,
    plain: bool,
) -> None:
    """Check what the replays of each cell left, and write its row; one that raises takes no other
    with it.
    """
    for name, (forward, batch, precision, queue, graph) in ready.items():
        with bench.guarded(name):
            poison(bench, forward)
            with bench.settings():
                queue.enqueue()
            bench.synchronize()
            facts = {
                **found[name],
                **bench.error(forward.logits),
                "boundary": "graph" if graph else "launch",
            }
            if plain and graph:
                facts["plain_us"] = (
                    statistics.median(bench.queue(forward, graph=False).times_ns(10)) / 1e3
                )
            facts["images_s"] = batch / facts["median_us"] * 1e6
            if batch == 1 and graph:
                facts["cold_us"] = cold_us(queue)
            facts["floor_us"] = floor_us(bench.config, batch, precision)
            if (own := own_ceilings(bench, precision)) is not None:
                facts["own_floor_us"] = floor_us(
                    bench.config, batch, precision, tb_s=own[0], tflops=own[1]
                )
            right = facts["max_error"] <= GATES[precision]  # false for NaN
            error = (
                {}
                if right
                else {
                    "error": f"wrong output: max error {facts['max_error']:.2g} of the logits' RMS"
                }
            )
            bench.write(
                name,
                "ok" if right else "failed",
                batch=batch,
                precision=precision,
                **facts,
                **error,
            )


def own_ceilings(bench: Bench, precision: str) -> tuple[float, float] | None:
    """TB/s and TFLOP/s that the ceilings step saw on this device; None if it did not."""
    seen = {
        row["cell"]: row
        for row in read_rows(bench.rows)
        if row["step"] == "ceilings" and row["status"] == "ok"
    }
    copied, product = seen.get("copy"), seen.get(f"{precision} product")
    if copied is None or product is None or copied["device"] != bench.name:
        return None
    return float(copied["tb_s"]), float(product["tflops"])


def cold_us(queue: Queue, runs: int = 20) -> float:
    """Median of replays, each after something larger than the L2 cache was written; otherwise
    weights may sit in it.
    """
    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.ExternalStream(queue.cuda_stream)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    events: Any = torch.cuda.Event  # untyped in torch
    pairs = [(events(enable_timing=True), events(enable_timing=True)) for _ in range(runs)]
    with torch.cuda.stream(stream):
        for start, end in pairs:
            flush.zero_()
            start.record(stream)
            queue.enqueue()
            end.record(stream)
    queue.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in pairs)) * 1e3


def poison(bench: Bench, forward: Forward) -> None:
    """Overwrite what the last run left: an output that nobody writes again shows as NaN."""
    with bench.settings(), torch.inference_mode():
        forward.logits.fill_(float("nan"))
    bench.synchronize()


def live(
    bench: Bench,
    batch: int,
    precision: str,
    layout: str,
    *,
    folded: bool = False,
    width: int | None = None,
    part: int | None = None,
    compiled: str | None = None,
) -> tuple[Forward, int, str]:
    """The network over ``batch`` images: folded, merged to ``width``, in parts, compiled in a mode,
    as asked for.
    """
    model: nn.Module = bench.weights()
    if folded:
        model = fold_batch_norms(model)
    if width is not None:
        model = merge_model_groups(model, width)
    model = laid_out(bench, model, precision, layout)
    run: Callable[[Tensor], Tensor] = model
    if compiled is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mode = None if compiled == "default" else compiled
            run = torch.compile(model, dynamic=False, fullgraph=True, mode=mode)
    if part is not None:
        run = partial(_in_parts, model, part)
    return Forward(run, placed(bench, batch, precision, layout)), batch, precision


def _in_parts(model: nn.Module, part: int, images: Tensor) -> Tensor:
    return torch.cat([model(some) for some in torch.split(images, part)])


def floor_us(
    config: ResNeXtConfig,
    batch: int,
    precision: str,
    *,
    tb_s: float = 3.35,
    tflops: float | None = None,
) -> float:
    """Least microseconds of a pass, layer by layer through memory, with the ceilings of an H100
    (3.35 TB/s; 800, 800 and 60 TFLOP/s) unless others are given.
    """
    peak = tflops or {"fp16": 800.0, "bf16": 800.0, "fp32": 60.0}[precision]
    return 1e6 * floors(config, precision, batch, Ceiling(peak * 1e12, tb_s * 1e12)).layers_s


def gpu_state() -> Row:
    """Clock, power, temperature and throttle reasons now; empty without NVML."""
    try:
        pynvml, card = _nvml()
        return {
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM),
            "power_w": pynvml.nvmlDeviceGetPowerUsage(card) / 1000,
            "temperature_c": pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
            "throttle": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(card),
        }
    except Exception as exc:  # NVML is a convenience here
        return {"nvml": first_line(exc)}


@cache
def _nvml() -> tuple[Any, Any]:
    import pynvml

    pynvml.nvmlInit()
    return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
