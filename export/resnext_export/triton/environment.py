"""Where a Triton server is: an environment made by ``make triton-env``, or a container's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resnext.errors import MissingRequirement, first_line

#: Names the environment, if it is neither here nor beside the toolkit.
VARIABLE = "RESNEXT_TRITON_ENV"
FOLDER = ".venv-triton"
#: What to do where there is no server.
HOW = (
    f"make triton-env makes {FOLDER}, {VARIABLE} names another one, and in NVIDIA's container"
    " tritonserver is on PATH"
)

#: Run by the environment's Python: what the server's processes need to know of it.
_FACTS = """
import importlib.metadata as metadata, importlib.util as util, json, platform, sysconfig
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
spec = util.find_spec("pytriton")
print(json.dumps({
    "python": ".".join(platform.python_version_tuple()[:2]),
    "libraries": sysconfig.get_config_var("LIBDIR"),
    "pytriton": spec and spec.submodule_search_locations[0],
    "versions": {name: version(name) for name in ("onnxruntime", "openvino", "nvidia-pytriton")},
}))
"""


@dataclass(frozen=True)
class Installation:
    """A Triton server that can be started.

    Attributes:
        binary: the program ``tritonserver``.
        backends: folder with its backends.
        stub: program that runs Python models in the environment's Python; None for a server with
            all of its files in place, as in NVIDIA's container.
        programs: folder that comes first in the server's PATH, or None.
        libraries: folders with shared libraries that the server needs.
        versions: releases of what stands in for backends, by package; empty if nothing can.
    """

    binary: Path
    backends: Path
    stub: Path | None
    programs: Path | None
    libraries: tuple[Path, ...]
    versions: Mapping[str, str]

    def environ(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Variables for the server's process; a module path that is meant for another Python is
        left out.
        """
        ours = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
        if self.programs is not None:
            ours["PATH"] = f"{self.programs}{os.pathsep}{ours.get('PATH', os.defpath)}"
        paths = [*map(str, self.libraries), *filter(None, [ours.get("LD_LIBRARY_PATH")])]
        if paths:
            ours["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        return ours


def find_server(environ: Mapping[str, str] = os.environ) -> Installation | None:
    """The server to use: the environment that `VARIABLE` names, ``tritonserver`` on PATH, or an
    environment in the current folder or beside the toolkit; None if there is none.

    Raises:
        MissingRequirement: the environment is there, but it is not complete.
    """
    if named := environ.get(VARIABLE):
        return from_environment(Path(named))
    if program := shutil.which("tritonserver", path=environ.get("PATH", os.defpath)):
        binary = Path(program).resolve()
        return Installation(binary, binary.parents[1] / "backends", None, None, (), {})
    for folder in (Path.cwd(), Path(__file__).parents[3]):
        if (folder / FOLDER / "bin").is_dir():
            return from_environment(folder / FOLDER)
    return None


def required_server(environ: Mapping[str, str] = os.environ) -> Installation:
    """`find_server`, where nothing can be done without one.

    Raises:
        MissingRequirement: there is none.
    """
    if (found := find_server(environ)) is None:
        raise MissingRequirement("there is no Triton server here", hint=HOW)
    return found


def from_environment(folder: Path) -> Installation:
    """The server of a virtual environment with nvidia-pytriton.

    Raises:
        MissingRequirement: it lacks something; says what.
    """
    python = folder / "bin" / "python"
    try:
        run = subprocess.run(
            [str(python), "-I", "-c", _FACTS], capture_output=True, text=True, check=True
        )
        facts = json.loads(run.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as exc:
        raise MissingRequirement(
            f"{folder} is not an environment for Triton: {first_line(exc)}", hint=HOW
        ) from exc
    if facts["pytriton"] is None:
        raise MissingRequirement(f"{folder} has no nvidia-pytriton", hint=HOW)
    package = Path(facts["pytriton"])
    server, version = package / "tritonserver", facts["python"]
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    libpython = Path(facts["libraries"]) / f"libpython{version}.so.1.0"
    lacking = {
        stub: f"nvidia-pytriton has no program for models in Python {version}; make it with another"
        " Python",
        libpython: f"Python models need the shared library {libpython.name}: install"
        f" libpython{version}, or a Python that was built with it",
    }
    for path, what in lacking.items():
        if not path.exists():
            raise MissingRequirement(f"{folder}: {what}")
    return Installation(
        binary=server / "bin" / "tritonserver",
        backends=server / "backends",
        stub=stub,
        programs=folder.absolute() / "bin",
        libraries=(package.parent / "nvidia_pytriton.libs", libpython.parent),
        versions={name: found for name, found in facts["versions"].items() if found is not None},
    )
