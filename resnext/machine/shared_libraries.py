"""Why a shared library does not load, and the line that mends it, from the loader's message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from resnext.findings import Finding

#: How to get the NVIDIA driver's libraries, which no package may bring.
DRIVER_HINT = "install the NVIDIA driver, or start the container with `gpus` all"

#: NVIDIA's wheels by the name of the library, without the suffix for a version of CUDA.
NVIDIA_WHEELS: Mapping[str, str] = MappingProxyType(
    {
        "libcublas": "nvidia-cublas",
        "libcublasLt": "nvidia-cublas",
        "libcudart": "nvidia-cuda-runtime",
        "libcudnn": "nvidia-cudnn",
        "libcufft": "nvidia-cufft",
        "libcupti": "nvidia-cuda-cupti",
        "libcurand": "nvidia-curand",
        "libcusolver": "nvidia-cusolver",
        "libcusparse": "nvidia-cusparse",
        "libnccl": "nvidia-nccl",
        "libnvJitLink": "nvidia-nvjitlink",
        "libnvrtc": "nvidia-cuda-nvrtc",
    }
)
#: Those that also have a suffix for CUDA 13.
_ALWAYS_SUFFIXED = frozenset({"nvidia-cudnn", "nvidia-nccl"})
#: Libraries whose number is CUDA's major version.
_NUMBERED_BY_CUDA = frozenset({"libcublas", "libcublasLt", "libcudart", "libnvJitLink", "libnvrtc"})

#: What brings the others.
_OTHERS: Mapping[str, str] = MappingProxyType(
    {
        "libcuda.so.1": DRIVER_HINT,
        "libnvidia-ml.so.1": DRIVER_HINT,
        "libnvinfer.so.10": 'pip install "tensorrt<11"',
        "libnvonnxparser.so.10": 'pip install "tensorrt<11"',
        "libnvinfer.so.11": "pip install tensorrt",
        "libnvonnxparser.so.11": "pip install tensorrt",
        "libgomp.so.1": "apt-get install libgomp1",
        "libstdc++.so.6": "apt-get install libstdc++6",
        "libGL.so.1": "apt-get install libgl1",
        "libgthread-2.0.so.0": "apt-get install libglib2.0-0",
        "libnuma.so.1": "apt-get install libnuma1",
        "libz.so.1": "apt-get install zlib1g",
        "libopenblas.so.0": "apt-get install libopenblas0",
    }
)


@dataclass(frozen=True)
class _Kind:
    """One kind of message. ``message`` and ``hint`` take the groups of ``pattern``."""

    pattern: str
    code: str
    message: str
    hint: str


_AGAIN = "install its package again, built for this processor"
_KINDS = (
    _Kind(
        r"([\w.+-]+\.so[.\d]*): cannot open shared object file",
        "missing-library",
        "the library {0} is not found",
        "",
    ),
    _Kind(
        r"version [`'\"]?((?:GLIBCXX|CXXABI)_[\w.]+)",
        "old-libstdc++",
        "the C++ library libstdc++ is too old: it lacks {0}",
        "use a newer libstdc++: conda install -c conda-forge libstdcxx-ng, or a newer system; if"
        " LD_LIBRARY_PATH names an old one, unset it",
    ),
    _Kind(
        r"version [`'\"]?(GLIBC_[\w.]+)",
        "old-glibc",
        "this system's C library is too old: it lacks {0}",
        "use a newer system or container image, or an older release of the package",
    ),
    _Kind(
        r"failed to map segment from shared object",
        "not-executable",
        "a library lies on a disk that is mounted noexec",
        "mount it with exec; for what is compiled, set TMPDIR to a folder on another disk",
    ),
    _Kind(
        r"(invalid ELF header|file too short|wrong ELF class|cannot read file data)",
        "damaged-library",
        "a library is damaged or for another processor ({0})",
        _AGAIN,
    ),
    _Kind(
        r"undefined symbol: (\w+)",
        "other-build",
        "a library was built for another release of the library that it loads (it lacks {0})",
        "install the package and what it requires again, in one call of pip",
    ),
    _Kind(
        r"cannot allocate memory in static TLS block",
        "no-tls-room",
        "a library was loaded too late, without room for its thread-local data",
        "set LD_PRELOAD to its path",
    ),
    _Kind(
        r"cannot enable executable stack",
        "executable-stack",
        "a library asks for an executable stack, which this system refuses",
        "install a newer release of its package",
    ),
    _Kind(
        r"numpy\.core\.multiarray failed to import|compiled using NumPy 1\.x"
        r"|numpy\.dtype size changed|_ARRAY_API not found",
        "numpy-abi",
        "a package was built for another major version of NumPy",
        "install a newer release of that package",
    ),
)


def load_problem(error: BaseException | str) -> Finding | None:
    """What the loader's ``error`` says.

    Returns:
        The finding, with the line that mends it; None if the loader did not write the message.
    """
    text = str(error)
    for kind in _KINDS:
        if found := re.search(kind.pattern, text):
            hint = kind.hint or library_hint(found[1])
            return Finding(kind.code, kind.message.format(*found.groups()), hint)
    return None


def library_hint(name: str, cuda: int | None = None) -> str:
    """What to install for the library ``name``, for example ``libcublas.so.12``.

    Args:
        name: file name with its number.
        cuda: major version of CUDA; None if unknown: some libraries have another number.
    """
    stem, _, number = name.partition(".so")
    if wheel := NVIDIA_WHEELS.get(stem):
        if cuda is None and stem in _NUMBERED_BY_CUDA and number.strip(".").isdigit():
            cuda = int(number.strip("."))
        cuda = 13 if cuda is None else cuda
        suffix = f"-cu{cuda}" if cuda < 13 or wheel in _ALWAYS_SUFFIXED else ""
        return f"pip install {wheel}{suffix}"
    if python := re.fullmatch(r"libpython(3\.\d+)", stem):
        return f"apt-get install libpython{python[1]}"
    return _OTHERS.get(
        name, f"install the package that has {name}, or add its folder to LD_LIBRARY_PATH"
    )
