"""What the loader says when a library does not load, and the line that mends it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from resnext.machine import shared_libraries
from resnext.machine.shared_libraries import library_hint, load_problem

#: Messages of loaders, with the code and the mending line.
MESSAGES = [
    (
        "libcudnn.so.9: cannot open shared object file: No such file or directory",
        "missing-library",
        "^pip install nvidia-cudnn-cu13$",
    ),
    (
        "/lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by"
        " /x/_C.so)",
        "old-libstdc++",
        "conda install -c conda-forge libstdcxx-ng",
    ),
    (
        "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /x/_C.so)",
        "old-glibc",
        "newer system or container image",
    ),
    (
        "/tmp/x.so: failed to map segment from shared object: Operation not permitted",
        "not-executable",
        "mount it with exec",
    ),
    ("/x/libort.so: invalid ELF header", "damaged-library", "install its package again"),
    ("/x/libort.so: file too short", "damaged-library", "install its package again"),
    ("/x/_C.so: undefined symbol: _ZN3c104cuda", "other-build", "in one call of pip"),
    ("/x/libgomp.so.1: cannot allocate memory in static TLS block", "no-tls-room", "LD_PRELOAD"),
    (
        "libonnxruntime.so: cannot enable executable stack as shared object requires: Invalid",
        "executable-stack",
        "newer release of its package",
    ),
    ("numpy.core.multiarray failed to import", "numpy-abi", "newer release of that package"),
    (
        "numpy.dtype size changed, may indicate binary incompatibility",
        "numpy-abi",
        "newer release of that package",
    ),
]


@pytest.mark.parametrize(("text", "code", "hint"), MESSAGES)
def test_a_loaders_message_is_a_finding_with_the_line_that_mends_it(
    text: str, code: str, hint: str
) -> None:
    finding = load_problem(ImportError(text))
    assert finding is not None
    assert finding.code == code
    assert re.search(hint, finding.hint)


def test_every_kind_of_message_is_tried() -> None:
    assert {kind.code for kind in shared_libraries._KINDS} == {code for _, code, _ in MESSAGES}


def test_another_error_is_none_of_the_loader() -> None:
    assert load_problem("No module named 'x'") is None


def test_this_system_s_loader_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "libplanted.so").write_bytes(b"no library at all, but long enough to be read")
    for name, code in ((str(tmp_path / "libplanted.so"), "damaged"), ("libno.so.3", "missing")):
        with pytest.raises(OSError, match="lib") as raised:
            ctypes.CDLL(name)
        finding = load_problem(raised.value)
        assert finding is not None
        assert finding.code == f"{code}-library"


@pytest.mark.parametrize(
    ("name", "cuda", "hint"),
    [
        ("libcublas.so.12", None, "pip install nvidia-cublas-cu12"),
        ("libcublasLt.so.13", None, "pip install nvidia-cublas"),
        ("libcudnn.so.9", 12, "pip install nvidia-cudnn-cu12"),
        ("libcudnn.so.9", 13, "pip install nvidia-cudnn-cu13"),
        ("libcurand.so.10", 13, "pip install nvidia-curand"),
        ("libnccl.so.2", 12, "pip install nvidia-nccl-cu12"),
        ("libgomp.so.1", None, "apt-get install libgomp1"),
        ("libpython3.12.so.1.0", None, "apt-get install libpython3.12"),
        ("libnvinfer.so.10", None, 'pip install "tensorrt<11"'),
        ("libcuda.so.1", None, shared_libraries.DRIVER_HINT),
        (
            "libodd.so.1",
            None,
            "install the package that has libodd.so.1, or add its folder to LD_LIBRARY_PATH",
        ),
    ],
)
def test_a_library_has_its_package(name: str, cuda: int | None, hint: str) -> None:
    assert library_hint(name, cuda) == hint
