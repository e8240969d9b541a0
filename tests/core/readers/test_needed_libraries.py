"""The libraries that another one needs, read from its bytes and held against the linker's own."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from resnext.readers.libraries import needed_libraries


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.c").write_text("int a(void) { return 1; }\n")
    first, second = folder / "libcublas.so.12", folder / "libprovider.so"
    shared = [compiler, "-shared", "-fPIC", str(folder / "a.c")]
    subprocess.run([*shared, "-Wl,-soname,libcublas.so.12", "-o", first], check=True)
    needs = ["-Wl,--no-as-needed", str(first)]
    subprocess.run([*shared, *needs, "-o", second], check=True)
    return second.read_bytes()


def test_the_needed_libraries_are_those_that_were_linked(library: bytes) -> None:
    assert "libcublas.so.12" in needed_libraries(library)


def test_what_is_cut_or_no_library_is_an_error_and_no_crash(library: bytes) -> None:
    with pytest.raises(ValueError, match="is not a library of Linux"):
        needed_libraries(b"\x7fELF and nothing else")
    for length in range(64, len(library), 997):
        with pytest.raises(ValueError, match=r"is cut short|has no dynamic section"):
            needed_libraries(library[:length])
