"""Each fault of a machine is planted here, seen by the doctor, and its mending line read."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from fakes.distributions import distribution, needs
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES
from resnext_export.doctor import compilers, folders, gpu, packages, processor, python, requirements
from resnext_export.doctor.checkup import CHECKS, checkup
from resnext_export.doctor.child import Died
from resnext_export.doctor.facts import Facts
from resnext_export.doctor.observation import Observation

DOCTOR = Path(python.__file__).parent
H100 = Driver(None, 1, "12.8", (Gpu("NVIDIA H100", "9.0"),))
NO_DRIVER = Driver("the NVIDIA driver is not installed (no libcuda.so.1)")
NO_DEVICE = Driver("the NVIDIA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)")


def facts(
    root: Path = Path("/nowhere"),
    environ: Mapping[str, str] | None = None,
    answers: Mapping[str, Any] | None = None,
    **known: Any,
) -> Facts:
    """A machine; ``answers`` are a child's, by name, and ``known`` are the values of properties."""

    def examine(_: str, names: Sequence[str], /, **__: Any) -> Iterator[tuple[str, Any]]:
        for name in names:
            yield name, (answers or {}).get(name, {"version": "1.0", "file": f"/{name}.py"})

    made = Facts(root, environ or {}, examine)
    made.__dict__.update({"driver": NO_DRIVER, "modules": {}, **known})
    return made


class Planted(NamedTuple):
    """One fault.

    Attributes:
        check: key of `CHECKS`.
        plant: runs the check with the fault.
        status: of the line that it must give.
        code: of the line.
        message: pattern in its message.
        hint: pattern in the line that mends it.
    """

    check: str
    plant: Callable[[Path, pytest.MonkeyPatch], Iterator[Observation]]
    status: str
    code: str
    message: str
    hint: str


# ---- Python


def pypy(_: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    patch.setattr("platform.python_implementation", lambda: "PyPy")
    return python.check_interpreter(facts())


def windows(_: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    patch.setattr("platform.system", lambda: "Windows")
    return python.check_interpreter(facts())


def hidden_package(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Observation]:
    site = folder / "site"
    torch = distribution(site, "torch", "2.0", {"torch/__init__.py": ""})
    (folder / "torch.py").write_text("")
    (folder / "onnx").mkdir()  # a folder without __init__.py hides nothing
    onnx = distribution(site, "onnx", "1.0", {"onnx/__init__.py": ""})
    machine = facts(
        installed={"torch": torch, "onnx": onnx}, needed=(needs("torch"), needs("onnx"))
    )
    return python.check_shadowing(machine, [str(folder), str(site)])


def hidden_standard(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Observation]:
    (folder / "random.py").write_text("")
    return python.check_shadowing(facts(installed={}, needed=()), [str(folder), *sys.path])


# ---- packages


def versions(folder: Path, specifier: str, version: str | None, name: str = "numpy") -> Any:
    installed = {} if version is None else {name: distribution(folder, name, version, {})}
    return packages.check_versions(facts(needed=(needs(name, specifier),), installed=installed))


def two_owners(folder: Path, version: str = "1.31.1") -> Iterator[Observation]:
    """The wheel for the CPU was installed over the one for CUDA, by their sizes."""
    files = {"onnxruntime/__init__.py": "x = 1\n", "onnxruntime/state.so": "cuda, which is longer"}
    first = distribution(folder, "onnxruntime-gpu", "1.31.1", files)
    second = distribution(folder, "onnxruntime", version, {**files, "onnxruntime/state.so": "cpu"})
    module = {"version": version, "file": str(folder / "onnxruntime/__init__.py")}
    machine = facts(
        needed=(needs("onnxruntime-gpu"),),
        installed={"onnxruntime-gpu": first, "onnxruntime": second},
        modules={"onnxruntime": module},
    )
    owners = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime"]}
    return packages.check_owners(machine, owners)


def other_files(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Observation]:
    module = {"version": "2.0", "file": "/elsewhere/onnx/__init__.py"}
    machine = facts(
        needed=(needs("onnx"),),
        installed={"onnx": distribution(folder, "onnx", "1.0", {})},
        modules={"onnx": module},
    )
    return packages.check_owners(machine, {"onnx": ["onnx"]})


def importing(answer: Any) -> Iterator[Observation]:
    return packages.check_imports(facts(needed=(needs("torch"),), modules={"torch": answer}))


def broken(error: str, kind: str = "ImportError") -> Iterator[Observation]:
    return importing({"error": error, "kind": kind})


# ---- processor


def cgroup(folder: Path, **files: str) -> Facts:
    """A machine whose processes are in a cgroup with these files."""
    for path, text in {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "1 2 3:4 / /cgroup rw - cgroup2 none rw\n",
        **{f"cgroup/{name.replace('_', '.')}": text for name, text in files.items()},
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return facts(folder)


def threads(**environ: str) -> Iterator[Observation]:
    return processor.check_threads(facts(environ=environ), frozenset({0, 1}))


# ---- folders


def failing(number: int, patch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "fsync", fsync)


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    failing(errno.ENOSPC, patch)
    return folders.check_cache(facts(), folder)


def over_quota(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    failing(errno.EDQUOT, patch)
    return folders.check_temporary(facts(), folder)


def no_locks(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    """As on a network disk without locks."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    patch.setattr("fcntl.flock", flock)
    return folders.check_cache(facts(), folder)


def in_the_way(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Observation]:
    (folder / "cache").write_text("a file")
    return folders.check_cache(facts(), folder / "cache")


def noexec(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Observation]:
    def refuse(_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    return folders.check_temporary(facts(), folder, refuse)


def nothing_writable(_: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    patch.setattr("tempfile.gettempdir", none)
    return folders.check_temporary(facts())


def lying(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    patch.setattr(Path, "read_bytes", lambda _: b"something else")
    return folders.check_cache(facts(), folder)


Usage = namedtuple("Usage", "total used free")


def usage(total: int, free: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shutil.disk_usage", lambda _: Usage(total, total - free, free))


def little_room(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    usage(1 << 40, 100 << 20, patch)
    return folders.check_cache(facts(), folder)


def little_shared(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    (folder / "dev/shm").mkdir(parents=True)
    usage(64 << 20, 64 << 20, patch)
    return folders.check_shared_memory(facts(folder))


# ---- compiler


def without_compiler(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("CXX", str(folder / "g++"))
    return str(folder / "g++")


def script(folder: Path, patch: pytest.MonkeyPatch, text: str) -> str:
    """A compiler that does what the script ``text`` says."""
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    patch.setenv("CXX", str(path))
    return str(path)


def compiler_script(folder: Path, patch: pytest.MonkeyPatch, text: str) -> Iterator[Observation]:
    script(folder, patch, text)
    return compilers.check_compiler(facts())


def empty_path(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    patch.delenv("CXX", raising=False)
    patch.setenv("PATH", str(folder))
    return compilers.check_compiler(facts())


#: Passes on to the machine's compiler unless the program needs ``include``.
WITHOUT = (
    "grep -q '<{include}>' \"$1\" && {{ echo 'probe.cpp:1: fatal error: {include}: No such file'"
    ' >&2; exit 1; }}\nprintf "#!/bin/sh\\n" > "$3"; chmod +x "$3"'
)


# ---- GPU


def nodes(folder: Path, *names: str) -> Path:
    (folder / "dev").mkdir()
    for name in names:
        (folder / "dev" / name).write_text("")
    return folder


def unpersistent(_: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    nvml = SimpleNamespace(gpus=lambda: (), persistence=lambda: False)

    class Opened:
        def __enter__(self) -> Any:
            return nvml

        def __exit__(self, *_: object) -> None: ...

    patch.setattr(gpu, "open_nvml", Opened)
    return gpu.check_driver(facts(driver=H100))


def cuda(patch: pytest.MonkeyPatch, driver: Driver, **modules: str | None) -> Any:
    patch.setattr(gpu, "LIBRARIES", {})
    answers = {name: {"version": "1.0", "cuda": cuda} for name, cuda in modules.items()}
    return gpu.check_cuda_versions(facts(driver=driver, modules=answers))


def provider(
    folder: Path, data: bytes | None, driver: Driver, missing: Sequence[str]
) -> Iterator[Observation]:
    capi = folder / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    if data is not None:
        (capi / "libonnxruntime_providers_cuda.so").write_bytes(data)
    module = {"version": "1", "file": str(capi.parent / "__init__.py"), "cuda": "12.8"}
    names = ("libcublas.so.12", "libcudnn.so.9", "libcuda.so.1")
    answers = {name: "not found" * (name in missing) for name in names}
    machine = facts(driver=driver, answers=answers, modules={"onnxruntime": module})
    return gpu.check_ort_libraries(machine)


def linked(
    folder: Path, patch: pytest.MonkeyPatch, driver: Driver, *missing: str
) -> Iterator[Observation]:
    names = ("libcublas.so.12", "libcuda.so.1", "libc.so.6")
    patch.setattr(gpu, "needed_libraries", lambda _: names)
    return provider(folder, b"a library", driver, missing)


# ---- runtimes


def runtimes(answer: Any, name: str = "ort-cuda", **known: Any) -> Iterator[Observation]:
    fine = {"max_error": 1e-6, "libraries": {}}
    answers = {each: answer if each == name else fine for each in RUNTIMES}
    for seen in CHECKS["runtimes"].run(facts(answers=answers, **known)):
        if seen.message.startswith(name) or seen.status != "ok":
            yield seen


def missing(code: str, message: str = "lacks it", hint: str = "get it") -> dict[str, Any]:
    return {"missing": {"code": code, "message": message, "hint": hint}}


def no_place_to_work(name: str) -> Callable[[Path, pytest.MonkeyPatch], Iterator[Observation]]:
    def plant(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
        (folder / "file").write_text("in the way")
        patch.setattr("tempfile.tempdir", str(folder / "file"))
        return dict(checkup(facts()))[name]

    return plant


def unforeseen(_: Path, patch: pytest.MonkeyPatch) -> Iterator[Observation]:
    def fails(*_: Any) -> bool:
        raise ValueError("nobody thought of this\nand so on")

    patch.setattr(os, "access", fails)
    return dict(checkup(facts(environ={"HOME": "/"})))["home"]


def compiled(_: str) -> Iterator[Observation]:
    """A runtime that cannot compile, with the compiler that was planted."""
    return runtimes(missing("no-compiler"), "pt2")


GPU_BUILD = {"onnxruntime": {"version": "1", "providers": ["CUDAExecutionProvider"]}}

FAULTS = (
    Planted("interpreter", pypy, "problem", "other-python", "PyPy", "CPython"),
    Planted("interpreter", windows, "warning", "other-system", "Windows is not tested", "WSL 2"),
    Planted(
        "C library",
        lambda *_: python.check_libc(facts(), ("", "")),
        *("problem", "no-glibc", "not glibc but musl", "not Alpine"),
    ),
    Planted(
        "C library",
        lambda *_: python.check_libc(facts(), ("glibc", "2.17")),
        *("problem", "old-glibc", r"glibc 2\.17 is older than 2\.28", "newer system"),
    ),
    Planted(
        "encoding",
        lambda *_: python.check_encoding(facts(), ("utf-8", "ANSI_X3.4-1968")),
        *("warning", "not-utf8", "texts ANSI_X3.4-1968", r"^export LANG=C\.UTF-8 PYTHONUTF8=1$"),
    ),
    Planted(
        *("shadowing", hidden_package, "problem", "shadowed-module"),
        *(r"torch\.py is imported instead of the module torch$", r"^rename it: mv \S+/torch\.py"),
    ),
    Planted(
        *("shadowing", hidden_standard, "problem", "shadowed-module"),
        *("random.py is imported instead of the module random", "mv "),
    ),
    Planted(
        "versions",
        lambda folder, _: versions(folder, ">=2.0", None),
        *("problem", "not-installed", "numpy is not installed", r"^pip install 'numpy>=2\.0'$"),
    ),
    Planted(
        "versions",
        lambda folder, _: versions(folder, ">=2.0", "1.9.3"),
        *("problem", "wrong-version", r"numpy 1\.9\.3 is not >=2", r"^pip install 'numpy>=2\.0'$"),
    ),
    Planted(
        "versions",
        lambda folder, _: versions(folder, ">=2.0", "9.0"),
        *("warning", "untested-version", "later major release than the tested 2", "numpy==2"),
    ),
    Planted(
        "versions",
        lambda *_: packages.check_versions(facts(needed=())),
        *("not here", "not-installed-toolkit", "no metadata", r"^install it: pip install -e \.$"),
    ),
    Planted(
        "extras",
        lambda *_: packages.check_extras(
            facts(needed=(needs("openvino", extra="openvino"),), installed={})
        ),
        *("not here", "no-extra", r"openvino \(OpenVINO\) lacks openvino"),
        r"^pip install 'resnext-toolkit\[openvino\]'$",
    ),
    Planted(
        *("owners", lambda folder, _: two_owners(folder), "problem", "two-owners"),
        r"onnxruntime 1\.31\.1 and onnxruntime-gpu 1\.31\.1 install the same module onnxruntime;"
        r" imported is onnxruntime's",
        r"^pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu==1\.31\.1$",
    ),
    Planted(
        *("owners", other_files, "problem", "other-files"),
        *(r"onnx 1\.0 is installed, and its module onnx is 2\.0", r"&& pip install onnx==1\.0$"),
    ),
    Planted(
        "imports",
        lambda *_: broken("libcublas.so.12: cannot open shared object file: No such file"),
        *("problem", "missing-library", r"torch does not load: the library libcublas\.so\.12"),
        "^pip install nvidia-cublas-cu12$",
    ),
    Planted(
        "imports",
        lambda *_: broken("cannot import name 'x' from 'y'"),
        *("problem", "broken-import", "torch does not load: ImportError: cannot import name"),
        r"^pip uninstall -y torch && pip install torch==\d",
    ),
    Planted(
        "imports",
        lambda *_: importing(Died("killed its process (SIGILL)", "SIGILL")),
        *("problem", "import-died", r"importing torch killed its process \(SIGILL\)"),
        "lacks instructions",
    ),
    Planted(
        "threads",
        lambda folder, _: processor.check_threads(cgroup(folder, cpu_max="50000 100000")),
        *("warning", "small-quota", r"quota is 0\.5 CPUs", "docker `cpus` 2"),
    ),
    Planted(
        "threads",
        lambda *_: threads(OMP_NUM_THREADS="many"),
        *("warning", "no-number", "'many', no number", "^unset OMP_NUM_THREADS$"),
    ),
    Planted(
        "threads",
        lambda *_: threads(OMP_NUM_THREADS="64"),
        *("warning", "too-many-threads", "more than the 2 cores", "^export OMP_NUM_THREADS=2$"),
    ),
    Planted(
        "threads",
        lambda *_: threads(MKL_NUM_THREADS="1"),
        *("warning", "other-threads", "budget of 2", "^unset MKL_NUM_THREADS$"),
    ),
    Planted(
        "threads",
        lambda *_: threads(KMP_AFFINITY="compact"),
        *("warning", "pinned-threads", "KMP_AFFINITY=compact pins", "^unset KMP_AFFINITY$"),
    ),
    Planted(
        "memory",
        lambda folder, _: processor.check_memory(cgroup(folder, memory_max=f"{1 << 30}\n")),
        *("warning", "little-memory", r"1\.0 GiB \(limit of the cgroup\)", "more memory"),
    ),
    Planted(
        "features",
        lambda *_: processor.check_features(facts(), frozenset({"sse4_2"})),
        *("warning", "no-avx2", "no AVX2", "the host's processor"),
    ),
    Planted(
        "features",
        lambda *_: processor.check_features(facts(), frozenset({"avx2"})),
        *("warning", "no-vnni", "no instructions for int8", "measure before"),
    ),
    Planted(
        "features",
        lambda *_: processor.check_features(facts(), frozenset()),
        *("warning", "unknown-features", "does not list", "^$"),
    ),
    Planted(
        *("temporary", noexec, "problem", "noexec"),
        *("mounted noexec", "^set TMPDIR to a folder on a disk that is mounted with exec$"),
    ),
    Planted(
        *("temporary", over_quota, "problem", "unusable-folder"),
        *("quota exceeded", "^make room, or set TMPDIR"),
    ),
    Planted(
        *("temporary", nothing_writable, "problem", "no-temporary-folder"),
        *("No usable temporary", "^set TMPDIR"),
    ),
    Planted(
        *("cache", full_disk, "problem", "unusable-folder"),
        *("No space left on device", "^make room, or set RESNEXT_CACHE_DIR"),
    ),
    Planted(
        *("cache", in_the_way, "problem", "unusable-folder"),
        *("cache cannot be used: (File exists|Not a directory)", "set RESNEXT_CACHE_DIR"),
    ),
    Planted(
        *("cache", no_locks, "problem", "unusable-folder"),
        *("No locks available", "set RESNEXT_CACHE_DIR"),
    ),
    Planted(*("cache", lying, "problem", "disk-lies"), "does not give back", "set RESNEXT_CACHE"),
    Planted(*("cache", little_room, "warning", "little-room"), "100 MiB left", "^make room"),
    Planted(
        "home",
        lambda *_: folders.check_home(facts()),
        *("warning", "no-home", "HOME is not set", "^set HOME to"),
    ),
    Planted(
        "home",
        lambda *_: folders.check_home(facts(environ={"HOME": "/no/such"})),
        *("warning", "no-home", "HOME is /no/such, which cannot be written", "^set HOME to"),
    ),
    Planted(
        *("shared memory", little_shared, "warning", "little-shared-memory"),
        *("64 MiB", "^start the container with `shm_size` 1g$"),
    ),
    Planted(
        "shared memory",
        lambda folder, _: folders.check_shared_memory(facts(folder)),
        *("not here", "no-shared-memory", "no /dev/shm", "^$"),
    ),
    Planted(
        "variables",
        lambda *_: CHECKS["variables"].run(facts(environ={"HTTPS_PROXY": "proxy:3128"})),
        *("warning", "odd-proxy", "no scheme", "^export HTTPS_PROXY=http://HOST:PORT$"),
    ),
    Planted(
        "variables",
        lambda *_: CHECKS["variables"].run(facts(environ={"SSL_CERT_FILE": "/no/such.pem"})),
        *("problem", "no-certificates", "/no/such.pem, which is not there", "unset SSL_CERT_FILE"),
    ),
    Planted(
        *("compiler", empty_path, "not here", "no-compiler"),
        *("no C\\+\\+ compiler", r"^apt-get install g\+\+"),
    ),
    Planted(
        "compiler",
        lambda folder, patch: compiler_script(
            folder, patch, "echo 'error: no license' >&2; exit 1"
        ),
        *(
            "problem",
            "broken-compiler",
            "run C\\+\\+: error: no license",
            r"^apt-get install g\+\+",
        ),
    ),
    Planted(
        "compiler",
        lambda folder, patch: compiler_script(folder, patch, WITHOUT.format(include="omp.h")),
        *("problem", "broken-compiler", "OpenMP: .*omp.h: No such file", "libgomp1"),
    ),
    Planted(
        "compiler",
        lambda folder, patch: compiler_script(folder, patch, WITHOUT.format(include="Python.h")),
        *("problem", "broken-compiler", "Python's headers: .*Python.h", r"python3\.\d+-dev"),
    ),
    Planted(
        "compiler",
        lambda folder, patch: compiler_script(folder, patch, 'printf "not a program" > "$3"'),
        *("problem", "broken-compiler", "the compiled program: Permission denied", "apt-get"),
    ),
    Planted(
        "driver",
        lambda *_: gpu.check_driver(facts(driver=NO_DRIVER)),
        *("not here", "no-driver", "no GPU: the NVIDIA driver is not installed", "^$"),
    ),
    Planted(
        "driver",
        lambda *_: gpu.check_driver(facts(driver=NO_DEVICE)),
        *("not here", "no-device", "sees no device", "start the container with `gpus` all"),
    ),
    Planted(
        "driver",
        lambda folder, _: gpu.check_driver(facts(nodes(folder, "nvidia0"), driver=NO_DRIVER)),
        *("problem", "unusable-gpu", "/dev/nvidia0 is here, but", "container with `gpus` all"),
    ),
    Planted(
        "driver",
        lambda folder, _: gpu.check_driver(facts(nodes(folder, "dxg"), driver=NO_DRIVER)),
        *("problem", "unusable-gpu", r"/dev/dxg \(WSL\) is here", "LD_LIBRARY_PATH=/usr/lib/wsl"),
    ),
    Planted(
        "driver",
        lambda folder, _: gpu.check_driver(
            facts(
                nodes(folder, "nvidia0"),
                driver=Driver("the NVIDIA driver is installed but cuInit failed with 803"),
            )
        ),
        *("problem", "unusable-gpu", "cuInit failed with 803", "restart after an update"),
    ),
    Planted(
        "driver",
        lambda folder, _: gpu.check_driver(
            facts(nodes(folder, "nvidia0"), {"CUDA_VISIBLE_DEVICES": ""}, driver=NO_DEVICE)
        ),
        *("not here", "hidden-gpu", "CUDA_VISIBLE_DEVICES='' hides it", "^unset CUDA_VISIBLE_DEV"),
    ),
    Planted(
        *("driver", unpersistent, "warning", "no-persistence"),
        *("persistence mode is off", "^nvidia-smi -pm 1$"),
    ),
    Planted(
        "CUDA",
        lambda _, patch: cuda(patch, H100, torch="13.0", onnxruntime="12.8"),
        *("problem", "old-driver", r"torch is built for CUDA 13\.0, and the driver supports 12\.8"),
        "^update the NVIDIA driver, or install torch built for CUDA 12$",
    ),
    Planted(
        "CUDA",
        lambda _, patch: cuda(patch, H100, torch=None, onnxruntime="12.8"),
        *("warning", "cpu-torch", "built without CUDA", "CUDA build of torch"),
    ),
    Planted(
        "CUDA",
        lambda _, patch: cuda(patch, NO_DRIVER, torch="13.0"),
        *("not here", "no-device", "not used without a GPU: torch 13", "^$"),
    ),
    Planted(
        "CUDA",
        lambda _, patch: cuda(patch, NO_DRIVER, torch=None),
        *("not here", "no-cuda-package", "no installed package", "^$"),
    ),
    Planted(
        "ORT libraries",
        lambda folder, patch: linked(folder, patch, H100, "libcublas.so.12", "libcudnn.so.9"),
        *("problem", "no-cuda-libraries", r"lacks libcublas\.so\.12, libcudnn\.so\.9$"),
        "^pip install nvidia-cublas-cu12 nvidia-cudnn-cu12$",
    ),
    Planted(
        "ORT libraries",
        lambda folder, patch: linked(folder, patch, NO_DRIVER, "libcudnn.so.9", "libcuda.so.1"),
        *(
            "not here",
            "no-cuda-libraries",
            "not used without a GPU",
            "^pip install nvidia-cudnn-cu",
        ),
    ),
    Planted(
        "ORT libraries",
        lambda folder, patch: linked(folder, patch, H100, "libcuda.so.1"),
        *("problem", "no-cuda-libraries", r"lacks libcuda\.so\.1$", "^install the NVIDIA driver"),
    ),
    Planted(
        "ORT libraries",
        lambda folder, _: provider(folder, b"\x7fELF, cut", H100, ()),
        *("problem", "damaged-library", "is not a library", "&& pip install onnxruntime-gpu$"),
    ),
    Planted(
        "ORT libraries",
        lambda folder, _: provider(folder, None, H100, ()),
        *("not here", "no-cuda-provider", "has no CUDA provider", "pip install onnxruntime-gpu$"),
    ),
    Planted(
        *("runtimes", no_place_to_work("runtimes"), "problem", "check-failed"),
        *("could not be checked: cannot make a temporary folder", "^set TMPDIR"),
    ),
    Planted(
        *("compiler", no_place_to_work("compiler"), "problem", "check-failed"),
        *("could not be checked: cannot make a temporary folder", "^set TMPDIR"),
    ),
    Planted(
        *("home", unforeseen, "problem", "check-failed"),
        *("could not be checked: nobody thought of this", "^$"),
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes(Died("killed its process (SIGSEGV)", "SIGSEGV"), "openvino"),
        *("problem", "runtime-died", r"openvino killed its process \(SIGSEGV\)"),
        r"pip install openvino==\d",
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes({"error": "wrong logits: top1", "hint": ""}, "torch"),
        *("problem", "runtime-failed", "torch: wrong logits", "^$"),
    ),
    Planted(
        "runtimes",
        lambda folder, patch: compiled(script(folder, patch, "")),
        *("problem", "no-compiler", "pt2: lacks it", "^get it$"),
    ),
    Planted(
        "runtimes",
        lambda folder, patch: compiled(without_compiler(folder, patch)),
        *("not here", "no-compiler", "pt2: lacks it", "^get it$"),
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes(missing("broken-package")),
        *("problem", "broken-package", "ort-cuda: lacks it", "^get it$"),
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes(missing("not-installed")),
        *("not here", "not-installed", "ort-cuda: lacks it", "^get it$"),
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes(missing("no-ort-cuda"), modules=GPU_BUILD),
        *("problem", "no-ort-cuda", "ort-cuda: lacks it", "^get it$"),
    ),
    Planted(
        "runtimes",
        lambda *_: runtimes(missing("no-ort-cuda"), modules={}),
        *("not here", "no-ort-cuda", "ort-cuda: lacks it", "^get it$"),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.check}-{fault.code}")
def test_a_planted_fault_is_named_with_the_line_that_mends_it(
    fault: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [each for each in fault.plant(tmp_path, monkeypatch) if each.status != "ok"]
    assert [(each.status, each.code) for each in seen] == [(fault.status, fault.code)]
    assert re.search(fault.message, seen[0].message), seen[0].message
    assert re.search(fault.hint, seen[0].hint), seen[0].hint
    assert "\n" not in seen[0].message + seen[0].hint


# ---- the table is complete


def test_every_check_has_a_planted_fault() -> None:
    assert {fault.check for fault in FAULTS} == set(CHECKS)


def codes(source: str) -> set[str]:
    """Codes of the lines that a module makes itself."""
    return {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("problem", "warning", "absent")
        and isinstance(node.args[0], ast.Constant)
    }


def test_every_line_but_ok_has_a_planted_fault() -> None:
    made = set().union(*(codes(path.read_text()) for path in DOCTOR.glob("*.py")))
    assert len(made) > 40
    assert made - {fault.code for fault in FAULTS} == set()
    assert codes('yield problem("x", "y")') == {"x"}


def test_every_runtime_of_the_registry_has_a_line() -> None:
    machine = facts(answers={name: {"max_error": 1e-6, "libraries": {}} for name in RUNTIMES})
    seen = [each.message.partition(":")[0] for each in CHECKS["runtimes"].run(machine)]
    assert seen == list(LOCAL_RUNTIMES)


# ---- what is fine


@pytest.mark.parametrize(
    "name", ["interpreter", "encoding", "threads", "memory", "temporary", "cache", "variables"]
)
def test_this_machine_gives_a_line_for_each_check(name: str) -> None:
    assert [each for each in CHECKS[name].run(facts(Path("/"), os.environ)) if each.status == "ok"]


def test_secrets_are_never_shown() -> None:
    environ = {
        "HF_TOKEN": "hf_secret",
        "HTTPS_PROXY": "http://user:secret@proxy:3128",
        "HF_ENDPOINT": "https://user:secret@mirror/",
    }
    [line] = CHECKS["variables"].run(facts(environ=environ))
    assert "secret" not in line.message
    assert "HF_TOKEN is set" in line.message
    assert "http://proxy:3128" in line.message


def test_a_cache_folder_that_is_fine_is_left_as_it_was(tmp_path: Path) -> None:
    [line] = folders.check_cache(facts(), tmp_path)
    assert line.status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_versions_within_range_are_no_fault(tmp_path: Path) -> None:
    [line] = versions(tmp_path, ">=1.26", "2.0.0")
    assert (line.status, line.message) == (
        "ok",
        "in range, tested with others: numpy 2.0.0"
        f" (tested with {requirements.tested_version('numpy')})",
    )


def test_openvino_s_and_pytorch_s_longer_versions_are_the_installed_ones(tmp_path: Path) -> None:
    for name, installed, imported in (
        ("openvino", "2026.4.1", "2026.4.1-22982-e213a147257-releases/2026/4"),
        ("torch", "2.13.0", "2.13.0+cu130"),
    ):
        machine = facts(
            needed=(needs(name),),
            installed={name: distribution(tmp_path, name, installed, {})},
            modules={name: {"version": imported, "file": "/x"}},
        )
        assert [each.status for each in packages.check_owners(machine, {name: [name]})] == ["ok"]


def test_a_toolkit_that_was_never_installed_has_no_requirements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "requires", absent)
    assert requirements.needed() == ()


def test_requirements_are_those_of_this_platform_and_of_the_user_s_extras() -> None:
    lines = [
        "numpy>=1.26",
        'pillow>=13; python_version < "3"',
        'openvino>=2025.0; extra == "openvino"',
        'pytest; extra == "test"',
        'resnext-toolkit[bench]; extra == "test"',
    ]
    assert requirements.needed(lines) == (
        needs("numpy", ">=1.26"),
        needs("openvino", ">=2025.0", "openvino"),
    )


def test_json_can_hold_every_answer() -> None:
    from resnext_export.doctor import importing as child

    [answer] = child.answers(["json"])
    assert json.loads(json.dumps(answer)) == answer
