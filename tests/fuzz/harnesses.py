"""One harness for each reader: bytes are refused in one line, or harmless.

`guarded` reports what else may happen to a process: files written outside, programs started.
"""

from __future__ import annotations

import io
import mmap
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from resnext.artifact.foreign import graph_facts
from resnext.artifact.manifest import read_manifest
from resnext.artifact.sizes import check_sizes
from resnext.errors import ResnextError
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import variant
from resnext.readers.archives import read_entries, take
from resnext.readers.arrays import read_array
from resnext.readers.foreign import parse_foreign
from resnext.readers.graphs import parse_onnx
from resnext.readers.ir_shapes import IrShapes
from resnext.readers.libraries import check_library
from resnext.readers.shapes import stored_values, tensor_shapes
from resnext.readers.strict_json import parse_json
from resnext.readers.tensors import read_tensor_header
from resnext.runtimes.pt2.package import read_package
from resnext.weights.spec import load_weights
from resnext_bench.result import read_run
from resnext_bench.tune.result import read_tuned
from resnext_export.calibration.ranges import read_ranges

MODEL = "resnext11_8x4d_digits"
GRAY = default_preprocessing(variant(MODEL))
COLOR = default_preprocessing(variant("resnext50_32x4d"))
SCRATCH = Path(tempfile.mkdtemp(prefix="resnext-fuzz-"))
#: What no reader does.
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
    "subprocess.Popen",
    "socket.connect",
    "shutil.",
    "ctypes.dlopen",
    "exec",
)
_watching: list[str] = []


class Escaped(Exception):
    """A reader did more than read."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or "import" in event:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if (writes and not str(arguments[0]).startswith(str(SCRATCH))) or event.startswith(_FORBIDDEN):
        if event == "exec" and _from_library():
            return
        _watching.append(f"{event} {arguments!r:.200}")


def _from_library() -> bool:
    """Whether a module is being imported: that runs its code."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    return frame is not None


sys.addaudithook(_audit)


@contextmanager
def guarded(refusal: type[Exception] = ResnextError) -> Iterator[None]:
    """Accept refusals of one line; everything else passes through.

    Args:
        refusal: class of the errors that are refusals.

    Raises:
        Escaped: the block wrote outside the scratch folder, or started something.
        AssertionError: a refusal of several lines, or of thousands of characters.
    """
    _watching[:] = ["watching"]
    try:
        yield
    except refusal as exc:
        text = str(exc)
        assert "\n" not in text, text
        assert len(text) < 2000, text
    finally:
        seen = _watching[1:]
        _watching.clear()
        if seen:
            raise Escaped("; ".join(seen))


def _file(name: str, data: bytes) -> Path:
    path = SCRATCH / name
    path.write_bytes(data)
    return path


def _archive(data: bytes) -> None:
    file = io.BytesIO(data)
    for entry in read_entries(file).values():
        take(file, entry)


def _archive_in_memory(data: bytes) -> None:
    memory = mmap.mmap(-1, max(1, len(data)))
    memory.write(data)
    memory.seek(0)
    read_entries(cast("io.BufferedReader", memory))


MANIFEST = read_manifest(
    Path(__file__).parents[1] / "core/data/earlier_artifacts/onnx-fp32/manifest.json"
)


def _onnx_sizes(data: bytes) -> None:
    model = parse_onnx(data)
    check_sizes(partial(tensor_shapes, model), stored_values(model), MANIFEST)


def _ir_sizes(data: bytes) -> None:
    shapes = IrShapes(data, memoryview(np.arange(32, dtype=np.int64).tobytes()))
    check_sizes(shapes.shapes, shapes.stored, MANIFEST)


def _search(data: bytes) -> None:
    search = read_tuned(_file("tune.json", data))
    search.table()
    search.html()


HARNESSES: Mapping[str, Callable[[bytes], object]] = {
    "json": parse_json,
    "manifest": lambda data: read_manifest(_file("manifest.json", data)),
    "ranges": lambda data: read_ranges(_file("ranges.json", data)),
    "run": lambda data: read_run(_file("run.json", data)),
    "search": _search,
    "archive": _archive,
    "ovir": _archive_in_memory,
    "package": lambda data: read_package(_file("model.pt2", data)),
    "library": check_library,
    "onnx": parse_onnx,
    "foreign-onnx": lambda data: parse_onnx(data, foreign=True),
    "adopted-onnx": lambda data: graph_facts(parse_foreign(data), Path("model.onnx")),
    "onnx-sizes": _onnx_sizes,
    "ir-sizes": _ir_sizes,
    "array": lambda data: read_array(io.BytesIO(data)),
    "tensor-header": lambda data: read_tensor_header(io.BytesIO(data), len(data)),
    "safetensors": lambda data: load_weights(str(_file("w.safetensors", data)), MODEL),
    "checkpoint": lambda data: load_weights(str(_file("w", data))),
    "pth": lambda data: load_weights(str(_file("w.pth", data)), MODEL),
    "gray-picture": lambda data: GRAY.load(_file("gray.png", data)),
    "color-picture": lambda data: COLOR.load(_file("color.png", data)),
}


#: Readers that others wrap: they refuse with a plain ValueError.
_PARTS = (
    *("json", "archive", "ovir", "library", "array", "tensor-header"),
    *("onnx", "foreign-onnx", "adopted-onnx", "onnx-sizes", "ir-sizes"),
)


def run(name: str, data: bytes) -> None:
    """Feed ``data`` to the reader ``name``."""
    with guarded(ValueError if name in _PARTS else ResnextError):
        HARNESSES[name](data)


def clean() -> None:
    """Remove the scratch folder."""
    for path in SCRATCH.iterdir():
        path.unlink()
    os.rmdir(SCRATCH)  # noqa: PTH106  # imported anyway
