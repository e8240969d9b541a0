"""The two libraries: what each can build, which one a name means, errors if one is missing, and
their logs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from resnext.artifact.records import EngineOptions
from resnext.artifact.specs import BatchRange
from resnext.errors import MissingRequirement, UsageError
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import this_platform
from resnext.runtimes.trt import library as trt_library
from resnext.runtimes.trt.library import (
    LIBRARIES,
    RTX_TARGETS,
    EngineKind,
    TensorRTRTX,
    library_for,
    library_of,
    require_driver,
)
from resnext.runtimes.trt.log import Log, captured, shorten

NONE = Driver("the NVIDIA driver is not installed (no libcuda.so.1)")
H200 = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))
TRT, RTX = LIBRARIES["trt"], LIBRARIES["trt-rtx"]


def options(**given: Any) -> EngineOptions:
    return EngineOptions(profiles=(BatchRange(min=1, opt=4, max=8),), **given)


# ---- what each can build


def test_every_library_is_in_the_table_under_its_own_kind() -> None:
    assert tuple(LIBRARIES) == get_args(EngineKind)
    for library in LIBRARIES.values():
        assert library_of(library.package) is library
    assert all(library.kind == kind for kind, library in LIBRARIES.items())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tf32": True},
        {"compatibility": "ampere+"},
        {"compatibility": "version"},
        {"optimization_level": 5},
        {"tiling_level": "full"},
        {"workspace_mib": 64},
        {"strip_weights": True},
    ],
)
def test_tensorrt_takes_every_option_but_targets_and_only_with_a_gpu(given: dict[str, Any]) -> None:
    TRT.check_can_build(options(**given), H200)
    with pytest.raises(
        MissingRequirement, match=r"builds on a GPU only: .*libcuda.so.1.*`format` trt-rtx"
    ):
        TRT.check_can_build(options(**given), NONE)
    for driver in (H200, NONE):  # the call is wrong whatever the machine
        with pytest.raises(UsageError, match=r"`targets` is TensorRT-RTX's"):
            TRT.check_can_build(options(**given, targets=("sm_89",)), driver)


@pytest.mark.parametrize("driver", [H200, NONE])
@pytest.mark.parametrize(
    "given", [{}, {"targets": RTX_TARGETS}, {"tf32": True}, {"workspace_mib": 64}]
)
def test_tensorrt_rtx_builds_with_and_without_a_gpu(driver: Driver, given: dict[str, Any]) -> None:
    RTX.check_can_build(options(**given), driver)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"compatibility": "same-cc"}, "`compatibility` is TensorRT's"),
        ({"optimization_level": 0}, "`optimization_level` is TensorRT's"),
        ({"tiling_level": "none"}, "`tiling_level` is TensorRT's"),
        ({"targets": ("sm_89", "sm_90")}, r"has no target sm_90; known: sm_75, .*sm_121"),
    ],
)
def test_tensorrt_rtx_refuses_what_only_tensorrt_has(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        RTX.check_can_build(options(**given), H200)


def test_tensorrt_rtx_strips_weights_with_a_driver_only() -> None:
    RTX.check_can_build(options(strip_weights=True), H200)
    with pytest.raises(MissingRequirement, match=r"with a driver only: .*drop `strip_weights`"):
        RTX.check_can_build(options(strip_weights=True), NONE)


class Config:
    """A builder's configuration that remembers."""

    def __init__(self, *, takes: bool = True) -> None:
        self.flags: list[str] = []
        self.targets: list[tuple[str, int]] = []
        self._takes = takes

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_compute_capability(self, capability: str, index: int) -> bool:
        self.targets.append((capability, index))
        return self._takes


class Names:
    """Each name is its own value."""

    def __getattr__(self, name: str) -> str:
        return name


LIBRARY = SimpleNamespace(
    BuilderFlag=Names(),
    HardwareCompatibilityLevel=Names(),
    ComputeCapability=SimpleNamespace(SM89="SM89", SM120="SM120"),
)


@pytest.mark.parametrize(
    ("compatibility", "flags", "level"),
    [
        ("none", [], None),
        ("ampere+", [], "AMPERE_PLUS"),
        ("same-cc", [], "SAME_COMPUTE_CAPABILITY"),
        ("version", ["VERSION_COMPATIBLE"], None),
    ],
)
def test_compatibility_is_asked_of_tensorrt(
    compatibility: str, flags: list[str], level: str | None
) -> None:
    config = Config()
    TRT.configure(LIBRARY, config, options(compatibility=compatibility))
    assert (config.flags, getattr(config, "hardware_compatibility_level", None)) == (flags, level)


def test_targets_are_asked_of_tensorrt_rtx_in_order() -> None:
    config = Config()
    RTX.configure(LIBRARY, config, options(targets=("sm_120", "sm_89")))
    assert config.targets == [("SM120", 0), ("SM89", 1)]
    assert vars(config)["num_compute_capabilities"] == 2
    assert config.flags == ["REQUIRE_USER_ALLOCATION"]
    plain = Config()
    RTX.configure(LIBRARY, plain, options())
    assert "num_compute_capabilities" not in vars(plain)


@pytest.mark.parametrize(("target", "takes"), [("sm_75", True), ("sm_89", False)])
def test_a_target_that_the_installed_version_lacks_or_refuses_is_named(
    target: str, takes: bool
) -> None:
    with pytest.raises(UsageError, match=f"does not build for {target}"):
        RTX.configure(LIBRARY, Config(takes=takes), options(targets=(target,)))


@pytest.mark.parametrize(("compatibility", "allowed"), [("none", False), ("version", True)])
def test_only_version_compatible_engines_may_run_code_of_their_own(
    compatibility: str, allowed: bool
) -> None:
    library = SimpleNamespace(
        Runtime=lambda _logger: SimpleNamespace(engine_host_code_allowed=False)
    )
    asked = options(compatibility=compatibility)
    assert TRT.runtime(library, None, asked).engine_host_code_allowed == allowed
    assert not RTX.runtime(library, None, asked).engine_host_code_allowed


def test_the_targets_are_those_of_the_installed_library() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    known = {
        name.replace("SM", "sm_")
        for name in trt.ComputeCapability.__members__
        if name.startswith("SM")
    }
    assert known == set(RTX_TARGETS)


# ---- which one is meant

Install = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes an environment that has these packages, each with a version, and no other."""

    def install(**packages: str) -> None:
        def version(name: str) -> str:
            if name not in packages:
                raise PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(trt_library, "version", version)

    return install


def test_trt_means_tensorrt_rtx_where_only_that_is_installed(installed: Install) -> None:
    installed(tensorrt_rtx="1.7.1.116")
    assert library_for("trt") is RTX
    assert library_for("trt-rtx") is RTX
    installed(tensorrt_rtx="1.7.1.116", tensorrt="11.4.0.106")
    assert library_for("trt") is TRT
    assert library_for("trt-rtx") is RTX
    installed(tensorrt="11.4.0.106")
    assert library_for("trt") is TRT
    with pytest.raises(
        MissingRequirement, match=r"TensorRT-RTX is not installed; pip install tensorrt_rtx$"
    ):
        library_for("trt-rtx")


def test_where_neither_is_installed_both_ways_out_are_told(installed: Install) -> None:
    installed()
    with pytest.raises(
        MissingRequirement, match=r"pip install tensorrt \(or tensorrt_rtx, .*without a GPU\)"
    ):
        library_for("trt")


@pytest.mark.parametrize(
    ("packages", "version", "cuda"),
    [
        ({}, None, None),
        ({"tensorrt": "11.4.0.106"}, "11.4.0.106", None),
        ({"tensorrt": "11.4.0.106", "tensorrt_cu13_libs": "11.4.0.106"}, "11.4.0.106", 13),
        ({"tensorrt_cu12": "10.16.1.11", "tensorrt_cu12_libs": "10.16.1.11"}, "10.16.1.11", 12),
        ({"tensorrt_cu13": "11.4.0.106"}, "11.4.0.106", None),
        ({"tensorrt_rtx": "1.7.1.116"}, None, None),  # the other library's
    ],
)
def test_version_and_cuda_are_read_from_metadata(
    installed: Install, packages: dict[str, str], version: str | None, cuda: int | None
) -> None:
    installed(**packages)
    assert (TRT.version, TRT.cuda) == (version, cuda)


def test_the_real_version_is_the_librarys_own() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert RTX.version == trt.__version__


def test_the_platform_is_named_by_system_and_processor() -> None:
    system, _, processor = this_platform().partition("-")
    assert system == sys.platform
    assert processor


def test_without_a_driver_what_works_here_is_told() -> None:
    for library in LIBRARIES.values():
        with pytest.raises(
            MissingRequirement,
            match=f"^{library.title} runs on an NVIDIA GPU only: .*`backend` torch",
        ):
            require_driver(library, NONE)
        require_driver(library, H200)


# ---- loading

BROKEN = {
    "missing": (None, "is not installed", "pip install "),
    "a dependency is missing": (
        "import no_such_package_of_anybody",
        "no Python package no_such_package_of_anybody",
        "pip",
    ),
    "an import error": (
        "raise ImportError('libnvinfer.so.11: file too short')",
        "file too short",
        "install the package tensorrt",
    ),
    "a library that does not load": (
        "import ctypes; ctypes.CDLL('libno-such-thing.so.1')",
        "libno-such-thing.so.1",
        "install the package tensorrt",
    ),
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """Installs a package with this source in place of the library; None installs nothing."""

    def install(package: str, source: str | None) -> None:
        monkeypatch.setitem(
            sys.modules, package, None
        )  # Python's own way to say that there is none; undone later
        if source is None:
            return
        del sys.modules[package]
        (tmp_path / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize("kind", LIBRARIES)
@pytest.mark.parametrize("why", BROKEN)
def test_a_library_that_does_not_load_is_named_with_the_way_out(
    broken: Callable[[str, str | None], None], kind: EngineKind, why: str
) -> None:
    library = LIBRARIES[kind]
    source, told, fix = BROKEN[why]
    broken(library.package, source)
    with pytest.raises(MissingRequirement) as failed:
        library.load()
    text = str(failed.value)
    assert text.startswith(library.title)
    assert told in text
    assert fix in text
    assert failed.value.exit_code == 3
    assert len(text.splitlines()) == 1


def test_what_loads_is_the_module(broken: Callable[[str, str | None], None]) -> None:
    broken("tensorrt", "answer = 42")
    assert "tensorrt" not in sys.modules
    assert TRT.load() is import_module("tensorrt")
    assert TRT.load().answer == 42


def test_nothing_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys; from resnext.runtimes.trt.library import LIBRARIES; "
        "[(f.version, f.cuda) for f in LIBRARIES.values()]; "
        "sys.exit(any(name.startswith(('tensorrt', 'torch')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    "source", ["raise ImportError('libtensorrt_rtx.so.1: wrong ELF class')", None]
)
def test_a_command_ends_with_3_where_the_library_does_not_load(
    tmp_path: Path, source: str | None
) -> None:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"never read")
    block = "import sys; sys.modules['tensorrt_rtx'] = None\n" if source is None else ""
    if source is not None:
        (tmp_path / "tensorrt_rtx.py").write_text(source)
    script = (
        f"{block}from resnext.runtimes.trt import library\n"
        # metadata is there, the library is not
        "library.Library.version = property(lambda self: '1.7.1.116')\n"
        "from resnext_export.cli.export import main\n"
        f"main(['check-trt', {str(onnx)!r}])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "TensorRT-RTX is" in done.stderr


# ---- what they log

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (CUDA driver version is"
    " insufficient for CUDA runtime version, cudaError 35)"
)


@pytest.mark.parametrize(
    ("line", "short"),
    [
        (
            (
                "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has"
                " dynamic or shape inputs, but no optimization profile has been defined. In"
                " validate at /_src/optimizer/api/network.cpp:4023)"
            ),
            "Network has dynamic or shape inputs, but no optimization profile has been defined",
        ),
        (
            (
                "[stdArchiveReader.cpp::StdArchiveReader::42] Error Code 1: Serialization"
                " (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version"
                " tag does not match.)"
            ),
            (
                "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version"
                " tag does not match"
            ),
        ),
        (NO_DRIVER, ""),
        ("", ""),
        (f"{NO_DRIVER}\nsecond line.", "second line"),
        ("a plain   line\nwith more", "a plain line"),
    ],
)
def test_lines_of_the_library_lose_their_source_positions(line: str, short: str) -> None:
    assert shorten(line) == short


@pytest.mark.parametrize(
    ("line", "short"),
    [
        (
            (
                "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check"
                " failed, condition: engineDims.d[i] == dims.d[i]. In setInputShape at"
                " /_src/runtime/api/executionContext.cpp:2101)"
            ),
            "Parameter check failed, condition: engineDims.d[i] == dims.d[i]",
        ),
        (
            (
                "[optimizer.cpp::computeCosts::4050] Error Code 10: Internal Error (Could not find"
                " any implementation for node {ForeignNode[layer1.0.conv2...fc]}.)"
            ),
            "Could not find any implementation for node {ForeignNode[layer1.0.conv2...fc]}",
        ),
    ],
)
def test_names_of_layers_and_conditions_stay(line: str, short: str) -> None:
    assert shorten(line) == short


def test_the_first_telling_line_is_the_reason() -> None:
    log = Log()
    assert log.reason() == "the library gave no reason"
    log.errors += [
        NO_DRIVER,
        "",
        "Error Code 2: Internal Error (the cause)",
        "Error Code 2: Internal Error (the effect)",
    ]
    assert log.reason() == "the cause"


class Library:
    """What `captured` needs of a library."""

    __name__ = "library_of_test_trt_library"

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)


def test_each_severity_goes_where_it_belongs_and_only_while_it_is_captured() -> None:
    library = Library()
    with captured(library) as (logger, log):
        for severity, line in enumerate(
            ("internal", "error", "warning", "info", "Layers:\nName: x", "chatter")
        ):
            logger.log(min(severity, 4), line)
    logger.log(1, "too late")
    assert (log.errors, log.warnings, log.layers) == (
        ["internal", "error"],
        ["warning"],
        "Layers:\nName: x",
    )
    with captured(library) as (again, empty):
        assert again is logger  # the library keeps the first that it is given
    assert (empty.errors, empty.warnings) == ([], [])


def test_tensorrt_rtx_is_asked_whether_a_graph_can_be_captured() -> None:
    for answer in (True, False):
        context = SimpleNamespace(
            is_stream_capturable=lambda stream, answer=answer: answer and stream == 5
        )
        assert RTX.capturable(context, 5) == answer
    assert TRT.capturable(object(), 5)
    assert isinstance(RTX, TensorRTRTX)
