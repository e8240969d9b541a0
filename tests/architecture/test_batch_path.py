"""A reader can follow one batch size through a benchmark: few files, and few returns to one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from resnext_bench import benchmark
from resnext_bench.plan import Case, Plan

ROOT = Path(__file__).parents[2]


class BatchSize(int):
    """A number that is recognized wherever it is passed on."""


def has_batch_size(value: object) -> bool:
    if isinstance(value, Plan):
        value = value.cases
    if isinstance(value, tuple | list | dict):
        return any(map(has_batch_size, value))
    return isinstance(value.batch if isinstance(value, Case) else value, BatchSize)


def path_of_batch_size(call: Callable[[], Any], root: Path) -> list[str]:
    """Files under ``root`` whose functions receive the batch size in ``call``, in order; a file
    comes again for each return to it.
    """
    files: list[str] = []

    def record(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        ours = event == "call" and code.co_filename.startswith(f"{root}/")
        if ours and any(has_batch_size(frame.f_locals.get(name)) for name in names):
            files.append(code.co_filename.removeprefix(f"{root}/"))

    previous = sys.getprofile()
    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(previous)
    return [file for file, _ in groupby(files)]


def test_a_batch_size_takes_a_short_path_through_a_benchmark() -> None:
    def run() -> None:
        size, quick = BatchSize(64), {"duration": 0.01, "warmup": 0.0, "rounds": 1, "samples": 1}
        benchmark("ort-cpu", batch=size, weights="digits", **quick)  # type: ignore[arg-type]

    run()  # exports; the second run finds the file in the cache
    path = path_of_batch_size(run, ROOT)
    stations = ("api", "cases", "run", "opening", "artifacts", "measure", "rows", "stats")
    assert {f"benchmarks/resnext_bench/{name}.py" for name in stations} <= set(path)
    assert len(set(path)) <= 15, path
    assert len(path) - len(set(path)) <= 8, path


def test_a_call_back_and_forth_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "caller.py").write_text(
        "import callee\ndef start(size): callee.use(size, half)\ndef half(size): return size / 2\n"
    )
    (tmp_path / "callee.py").write_text("def use(size, half): return [half(size), size]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import caller  # type: ignore[import-not-found]  # written above

    path = path_of_batch_size(lambda: caller.start(BatchSize(8)), tmp_path)
    assert path == ["caller.py", "callee.py", "caller.py"]
