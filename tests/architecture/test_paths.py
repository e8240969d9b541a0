"""A reader can follow one value through a command: few files, and few returns to one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from resnext.precision import PRECISIONS
from resnext_bench import benchmark
from resnext_bench.cases import Axes
from resnext_bench.plan import Case, Plan
from resnext_export import ExportRequest
from resnext_export.cli.export import main

ROOT = Path(__file__).parents[2]


class BatchSize(int):
    """A number that is recognized wherever it is passed on."""


def has_batch_size(value: object) -> bool:
    if isinstance(value, Plan):
        value = value.cases
    if isinstance(value, Axes):
        value = tuple(value.batches)
    if isinstance(value, tuple | list | dict):
        return any(map(has_batch_size, value))
    return isinstance(value.batch if isinstance(value, Case) else value, BatchSize)


def is_int8(value: object) -> bool:
    """Whether it is the precision int8: its name, its row of the table, or a request for it."""
    if isinstance(value, tuple | list | dict):
        return any(map(is_int8, value.values() if isinstance(value, dict) else value))
    if isinstance(value, ExportRequest):
        value = value.precision
    return value is PRECISIONS["int8"] or (isinstance(value, str) and value == "int8")


def path_of(carried: Callable[[object], bool], call: Callable[[], Any], root: Path) -> list[str]:
    """Files under ``root`` whose functions receive, in ``call``, an argument that ``carried``
    recognizes, in order; a file comes again for each return to it.
    """
    files: list[str] = []

    def record(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        file = code.co_filename.removeprefix(f"{root}/")
        # A file elsewhere keeps its whole path; a virtual environment in the checkout is hidden.
        ours = event == "call" and file[0] not in "/.<"
        if ours and any(carried(frame.f_locals.get(name)) for name in names):
            files.append(file)

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
        # a fixed number of rounds: each further one visits the same files again
        benchmark("ort-cpu", batch=size, weights="digits", precision_target=None, **quick)  # type: ignore[arg-type]

    run()  # exports; the second run finds the file in the cache
    path = path_of(has_batch_size, run, ROOT)
    stations = ("api", "cases", "run", "opening", "artifacts", "measure", "rows", "stats")
    assert {f"benchmarks/resnext_bench/{name}.py" for name in stations} <= set(path)
    assert_short(path)


def test_a_precision_takes_a_short_path_through_an_export(tmp_path: Path) -> None:
    options = ["--format", "onnx", "--weights", "digits", "--output", str(tmp_path / "int8")]
    arguments = [*options, "--precision", "int8", "--calibration", "digits"]
    path = path_of(is_int8, lambda: main(arguments, standalone_mode=False), ROOT)
    stations = ("cli/options", "request", "pipeline", "publish", "formats/derived")
    assert {f"export/resnext_export/{name}.py" for name in stations} <= set(path)
    assert_short(path)


def assert_short(path: list[str]) -> None:
    assert len(set(path)) <= 15, path
    assert len(path) - len(set(path)) <= 8, path


def test_a_call_back_and_forth_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "caller.py").write_text(
        "import callee\ndef start(size): callee.use(size, half)\ndef half(size): return size / 2\n"
    )
    (tmp_path / "callee.py").write_text("def use(size, half): return [half(size), size]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import caller  # type: ignore[import-not-found]  # written above

    path = path_of(has_batch_size, lambda: caller.start(BatchSize(8)), tmp_path)
    assert path == ["caller.py", "callee.py", "caller.py"]
