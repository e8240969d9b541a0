"""Cold caches: flushed before each run, untimed, with a buffer that is large enough."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext.timing import clock, cold


def test_what_comes_before_a_run_is_not_in_its_time() -> None:
    calls: list[str] = []

    def before() -> None:
        calls.append("before")
        time.sleep(0.02)

    samples = clock.time_host(lambda: calls.append("run"), 3, before)
    assert calls == ["before", "run"] * 3
    assert max(samples) < 0.015e9


class Device:
    """A CUDA device in simulated time: events, a stream, and work that takes known times."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.log: list[str] = []

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        return Event(self)

    def work(self, name: str, took_ms: float) -> None:
        self.log.append(name)
        self.now_ms += took_ms


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at_ms = device, -1.0

    def record(self, _stream: object) -> None:
        self.device.log.append("event")
        self.at_ms = self.device.now_ms

    def elapsed_time(self, end: Event) -> float:
        assert self.at_ms >= 0
        return end.at_ms - self.at_ms


class Queue:
    """Work of 2 ms on a stream."""

    cuda_stream = 7

    def __init__(self, device: Device) -> None:
        self.device = device

    def enqueue(self) -> None:
        self.device.work("run", 2.0)

    def synchronize(self) -> None:
        self.device.log.append("sync")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    torch = pytest.importorskip("torch")
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: handle)
    monkeypatch.setattr(clock, "now_ns", lambda: round(device.now_ms * 1e6))
    return device


def test_a_flush_on_the_stream_is_in_neither_the_device_times_nor_the_time_around_them(
    device: Device,
) -> None:
    times, wall_ns = clock.time_device(Queue(device), 3, lambda: device.work("flush", 50.0))
    assert times == [2_000_000] * 3
    assert wall_ns == 8_000_000  # with the first, untimed run
    one = ["event", "flush", "event", "run", "event"]
    assert device.log == ["sync", "run", *one * 3, "sync"]


def test_without_a_flush_runs_are_back_to_back(device: Device) -> None:
    assert clock.time_device(Queue(device), 2) == ([2_000_000] * 2, 6_000_000)
    assert device.log == ["sync", "run", *["event", "run", "event"] * 2, "sync"]


def test_each_run_whose_queuing_is_timed_finds_an_idle_stream(device: Device) -> None:
    assert clock.time_enqueue(Queue(device), 2) == [2_000_000] * 2
    assert device.log == ["sync", "run", "sync", "run", "sync"]


# ---- what flushes


def test_a_flush_on_a_cpu_writes_every_byte_and_moves_no_other_thread() -> None:
    allowed = os.sched_getaffinity(0)
    flush = cold.CpuFlush(64 << 10)
    buffer = cold._buffer(64 << 10)
    assert buffer.nbytes == 64 << 10
    assert np.array_equal(buffer, np.full_like(buffer, 2))
    flush()
    flush.enqueue()
    assert np.array_equal(buffer, np.full_like(buffer, 4))
    assert os.sched_getaffinity(0) == allowed
    assert flush.took_ns > 0


def caches(root: Path, *sizes: str) -> Path:
    for index, size in enumerate(sizes):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(size)
    return root


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        (("48K\n", "2048K\n", "32768K\n"), 32 << 20),
        (("48K\n", "16M\n"), 16 << 20),
        (("", "many", "-1K", "512\n"), 512),
        ((), 64 << 20),
    ],
)
def test_the_buffer_is_twice_the_largest_cache_that_the_kernel_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[str, ...], largest: int
) -> None:
    root = caches(tmp_path, *sizes)
    assert cold.last_level_cache_bytes(root) == largest
    made: list[int] = []
    monkeypatch.setattr(cold, "_ROOT", root)
    monkeypatch.setattr(cold, "last_level_cache_bytes", lambda: largest)

    def small(size: int) -> Any:
        made.append(size)
        return np.zeros(8, np.uint64)

    monkeypatch.setattr(cold, "_buffer", small)
    assert isinstance(cold.flush_for(None), cold.CpuFlush)
    assert made == [2 * largest]
    monkeypatch.setattr(cold, "last_level_cache_bytes", lambda: 480 << 20)
    monkeypatch.setattr(cold, "_MOST_BYTES", 1 << 20)
    cold.CpuFlush()
    assert made[-1] == 1 << 20


def test_a_flush_on_a_gpu_writes_twice_its_l2_on_the_session_s_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    log: list[object] = []

    class Stream:
        device = "cuda:1"

        def __init__(self, handle: int) -> None:
            self.handle = handle

        def synchronize(self) -> None:
            log.append("sync")

    class Properties:
        L2_cache_size = 50 << 20

    class Entered:
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            log.append(("stream", self.stream.handle))

        def __exit__(self, *_: object) -> None:
            log.append("left")

    class Buffer:
        def __init__(self, size: int, *, dtype: Any, device: str) -> None:
            log.append((size, dtype, device))

        def zero_(self) -> None:
            log.append("zeros")

    monkeypatch.setattr(torch.cuda, "ExternalStream", Stream)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "stream", Entered)
    monkeypatch.setattr(torch, "empty", Buffer)
    flush = cold.flush_for(7)
    assert log.pop(0) == (100 << 20, torch.uint8, "cuda:1")
    written = [("stream", 7), "zeros", "left"]
    assert log == [*written, "sync"] * 2
    log.clear()
    flush.enqueue()
    assert log == written  # the stream keeps the order; waiting would leave it idle
    flush()
    assert log[-1] == "sync"
