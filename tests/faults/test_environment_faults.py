"""A fault of the machine is exit code 3 with the line that mends it, whichever command meets it:
never a bad artifact, never a bug.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import onnxruntime
import pytest
from click.testing import CliRunner

from resnext.artifact.files import Artifact
from resnext.cli.batch import main as batch
from resnext.cli.classify import main as classify
from resnext.cli.parity import main as parity
from resnext.runtimes.pt2 import toolchain
from resnext.weights.shipped import SHIPPED
from resnext_bench.cli.bench import main as bench
from resnext_export.cli.export import main as export
from resnext_export.pipeline import export as exported

ROOT = Path(__file__).parents[2]
PICTURE = str(next(SHIPPED["digits"].images.iterdir()))
RUN = str(next((ROOT / "benchmarks" / "results").glob("2026-11-23-xeon*fp32.json")))
QUICK = ["--device", "cpu", "--duration", "0.001", "--rounds", "1", "--warmup", "0"]
#: Commands with arguments that are otherwise in order.
COMMANDS: Mapping[str, tuple[click.Command, list[str]]] = {
    "resnext-export": (export, ["--format", "onnx", "--weights", "digits", "--output", "OUT"]),
    "resnext-export openvino": (
        export,
        ["--format", "openvino", "--onnx", "ARTIFACT", "--output", "OUT"],
    ),
    "resnext-export int8": (
        export,
        [
            *("--format", "onnx", "--onnx", "ARTIFACT", "--precision", "int8", "--output", "OUT"),
            *("--calibration", "digits", "--calibration-images", "8"),
        ],
    ),
    "resnext-export pt2": (
        export,
        ["--format", "pt2", "--weights", "digits", "--output", "OUT"],
    ),
    "resnext-export rebuild": (export, ["rebuild", "ARTIFACT", "--output", "OUT"]),
    "resnext-export refit": (export, ["refit", "ARTIFACT", "--output", "OUT"]),
    "resnext-export inspect": (export, ["inspect", "ARTIFACT", "--backend", "ort-cpu"]),
    "resnext-export check-trt": (export, ["check-trt", "ARTIFACT/model.onnx"]),
    "resnext-export check-triton": (export, ["check-triton", "ARTIFACT"]),
    "resnext-export triton": (
        export,
        ["--format", "triton", "--weights", "digits", "--output", "OUT"],
    ),
    "resnext-export doctor": (export, ["doctor"]),
    "resnext-export explain": (export, ["explain", "ARTIFACT", "--backend", "ort-cpu"]),
    "resnext-export sign": (export, ["sign", "ARTIFACT", "--key", "k.pem"]),
    "resnext-export verify": (export, ["verify", "ARTIFACT", "--key", "k.pub"]),
    "resnext-export tune": (
        export,
        ["tune", "--weights", "digits", "--backend", "ort-cpu", "--output", "OUT"],
    ),
    "resnext-parity": (parity, ["--artifact", "ARTIFACT", "--backend", "ort-cpu"]),
    "resnext-parity reference": (
        parity,
        ["--artifact", "ARTIFACT", "--backend", "onnx-reference"],
    ),
    "resnext-parity bisect": (parity, ["--artifact", "ARTIFACT", "--bisect"]),
    "resnext-parity verify": (parity, ["verify", "ARTIFACT"]),
    "resnext-classify": (classify, [PICTURE, "--artifact", "ARTIFACT"]),
    "resnext-batch": (
        batch,
        [str(Path(PICTURE).parent), "--artifact", "ARTIFACT", "--output", "OUT"],
    ),
    "resnext-bench": (
        bench,
        ["--backend", "ort-cpu", "--artifact", "ARTIFACT", *QUICK],
    ),
    "resnext-bench weights": (bench, ["--backend", "ort-cpu", "--weights", "digits", *QUICK]),
    "resnext-bench compiled": (
        bench,
        ["--backend", "torch-compile", "--weights", "digits", *QUICK],
    ),
    "resnext-bench lens": (bench, ["lens", "ARTIFACT", "--backend", "ort-cpu"]),
    "resnext-bench limits": (bench, ["limits"]),
    "resnext-bench ab": (bench, ["ab", "ARTIFACT", "ort-cpu"]),
    "resnext-bench compare": (bench, ["compare", RUN, RUN]),
    "resnext-bench page": (bench, ["page", RUN, "--html", os.devnull]),
    "resnext-bench history": (bench, ["history", str(Path(RUN).parent)]),
    "resnext-bench crosscheck": (bench, ["crosscheck", "ARTIFACT"]),
    "resnext-bench plan": (bench, ["plan", "--backend", "ort-cpu", "--weights", "digits"]),
    "resnext-bench run-cells": (bench, ["run-cells", RUN]),
    "resnext-bench merge": (bench, ["merge", str(Path(RUN).parent)]),
}
LOADER = "libcublas.so.12: cannot open shared object file: No such file or directory"


def ort_raises(error: Exception) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """ONNX Runtime cannot open a session."""

    def plant(patch: pytest.MonkeyPatch, _: Path) -> None:
        def fails(*_: Any, **__: Any) -> Any:
            raise error

        patch.setattr(onnxruntime, "InferenceSession", fails)

    return plant


def no_temporary_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr("tempfile.tempdir", str(folder / "file"))


def no_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RESNEXT_CACHE_DIR", str(folder / "file" / "cache"))


def full_disk(patch: pytest.MonkeyPatch, _: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", full)


def no_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PATH", str(folder))
    patch.delenv("CXX", raising=False)
    toolchain.obstacle.cache_clear()


def no_openvino(patch: pytest.MonkeyPatch, _: Path) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "openvino":
                raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        patch.delitem(sys.modules, name)
    patch.delitem(sys.modules, "resnext.runtimes.openvino.library", raising=False)
    patch.delitem(sys.modules, "resnext_export.convert.openvino_from_onnx", raising=False)
    patch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])


def nothing(_: pytest.MonkeyPatch, __: Path) -> None:
    """The fault is in the arguments: a report in a folder that is a file."""


JSON = ["--json", "FILE/report.json"]
#: What names the output of commands without ``--json``.
REPORTS = {
    "resnext-bench page": "--html",
    "resnext-bench plan": "--output",
    "resnext-bench run-cells": "--into",
}
WRITTEN = ["--json", "OUT.json"]
#: Commands that open the artifact on ONNX Runtime.
OPENING = (
    *("resnext-export inspect", "resnext-parity", "resnext-parity reference", "resnext-classify"),
    *("resnext-bench", "resnext-bench lens", "resnext-export int8"),
)
#: Faults: how to plant each, the line that mends it, and the commands that meet it, with further
#: arguments.
FAULTS: Mapping[
    str, tuple[Callable[[pytest.MonkeyPatch, Path], None], str, Mapping[str, list[str]]]
] = {
    "no library": (
        ort_raises(RuntimeError(f"Failed to load library libonnx.so with error: {LOADER}")),
        "pip install nvidia-cublas-cu12",
        {name: [] for name in OPENING},
    ),
    "no memory": (
        ort_raises(RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")),
        "out of memory; use a smaller --batch",
        {name: [] for name in OPENING if "bench" not in name},
    ),
    "no temporary folder": (
        no_temporary_folder,
        "set TMPDIR to a folder with room",
        {
            name: []
            for name in ("resnext-export", "resnext-export rebuild", "resnext-export openvino")
        },
    ),
    "no cache": (
        no_cache,
        "set RESNEXT_CACHE_DIR to one that can be written to",
        {name: [] for name in ("resnext-export int8", "resnext-bench weights")},
    ),
    "full disk": (
        full_disk,
        "No space left on device",
        {
            "resnext-export openvino": [],
            "resnext-export triton": [],
            "resnext-export inspect": WRITTEN,
            "resnext-parity": WRITTEN,
            "resnext-classify": WRITTEN,
            "resnext-bench compare": WRITTEN,
        },
    ),
    "no compiler": (
        no_compiler,
        "apt-get install g++",
        {"resnext-export pt2": [], "resnext-bench compiled": []},
    ),
    "no package": (no_openvino, "pip install openvino", {"resnext-export openvino": []}),
    "no report": (
        nothing,
        "choose another path",
        {
            name: [REPORTS.get(name, "--json"), *JSON[1:]]
            for name in COMMANDS
            if name not in ("resnext-export refit", "resnext-export rebuild", "resnext-batch")
        },
    ),
    "no output": (
        nothing,
        "choose another --output",
        {
            name: ["--output", "FILE/out"]
            for name in (
                "resnext-export",
                "resnext-export rebuild",
                "resnext-export triton",
                "resnext-export tune",
                "resnext-parity bisect",
            )
        },
    ),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("faults") / "onnx"
    return exported("digits", folder, check=False)


CASES = [(fault, command) for fault, (_, _, met) in FAULTS.items() for command in met]


@pytest.mark.parametrize(("fault", "command"), CASES)
def test_a_fault_of_the_machine_is_exit_3_with_the_line_that_mends_it(
    fault: str, command: str, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, line, met = FAULTS[fault]
    main, arguments = COMMANDS[command]
    (tmp_path / "file").write_text("in the way")
    places = {
        "ARTIFACT": str(artifact.directory),
        "OUT": str(tmp_path / "out"),
        "FILE": str(tmp_path / "file"),
    }
    given = []
    for argument in [*arguments, *met[command]]:
        first, slash, rest = argument.partition("/")
        stem, dot, ending = first.partition(".")
        given.append(places.get(stem, stem) + dot + ending + slash + rest)
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        plant(patch, tmp_path)
        done = CliRunner().invoke(main, given)
    assert done.exit_code == 3, done.output
    assert line in " ".join(done.output.split()), done.output
    assert "Traceback" not in done.output


#: Modules whose shared library is missing, with a command that imports them.
BROKEN = [
    (
        "ImportError",
        "onnx",
        "resnext_export.cli.export",
        ["--format", "onnx", "--weights", "digits"],
    ),
    ("OSError", "torch", "resnext.cli.classify", [PICTURE, "--weights", "digits"]),
    ("ImportError", "PIL", "resnext.cli.classify", [PICTURE, "--weights", "digits"]),
]


@pytest.mark.parametrize(("error", "module", "command", "arguments"), BROKEN)
def test_a_module_whose_library_is_missing_is_exit_3(
    error: str, module: str, command: str, arguments: list[str], tmp_path: Path
) -> None:
    script = (
        "import importlib, sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        f"            raise {error}({LOADER!r})\n"
        "sys.meta_path.insert(0, Broken())\n"
        "importlib.import_module(sys.argv[1]).main(sys.argv[2:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "pip install nvidia-cublas-cu12" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_command_meets_a_fault() -> None:
    found = set()
    for name, main in (
        *(("resnext-export", export), ("resnext-bench", bench)),
        *(("resnext-parity", parity), ("resnext-classify", classify)),
    ):
        found.add(name)
        if isinstance(main, click.Group):
            found |= {f"{name} {child}" for child in main.list_commands(click.Context(main))}
    refit = {"resnext-export refit"}  # it writes an engine, which needs a GPU to check
    met = {command for _, _, commands in FAULTS.values() for command in commands}
    assert found <= set(COMMANDS)
    assert found - refit <= met
