"""Can a machine load an engine? Each rule with a machine that fits and one that does not, and the
way out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from resnext.artifact.manifest import BatchRange, Manifest, WeightsRecord
from resnext.artifact.records import EngineOptions, EngineRecord, PackageRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import MissingRequirement
from resnext.images.preprocessing import Preprocessing
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import Host, Machine, this_machine, this_platform
from resnext.network.config import variant
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.loading import MADE_AGAIN, refuse
from resnext.runtimes.trt.compatibility import remarks, with_library
from resnext.runtimes.trt.library import LIBRARIES, RTX_TARGETS

NO_DRIVER = Driver("the NVIDIA driver is not installed (no libcuda.so.1)")


def gpu(name: str = "NVIDIA H200", capability: str = "9.0", cuda: str = "13.0") -> Driver:
    return Driver(None, 1, cuda, (Gpu(name, capability),))


def engine(
    library: str = "tensorrt", version: str = "11.4.0.106", refitted: bool = False, **options: Any
) -> Manifest:
    """Built on an H200, or for TensorRT-RTX on a machine without a GPU."""
    profiles = options.pop("profiles", (BatchRange.parse("1:8:64"),))
    ahead = library == "tensorrt_rtx"
    record = EngineRecord(
        library="tensorrt_rtx" if ahead else "tensorrt",
        version=version,
        cuda=13,
        platform="linux-x86_64",
        gpu=None if ahead else "NVIDIA H200",
        compute_capability=None if ahead else "9.0",
        cuda_driver=None if ahead else "13.0",
        options=EngineOptions(profiles=profiles, **options),
        refitted=refitted,
        build_s=1.0,
        layers=(),
        layers_from="nothing",
    )
    config = variant("resnext11_8x4d_digits")
    return Manifest(
        kind="trt-rtx" if ahead else "trt",
        file="model.engine",
        file_sha256="0" * 64,
        file_size_bytes=1,
        model="resnext11_8x4d_digits",
        config=config,
        weights=WeightsRecord(source="digits", sha256="1" * 64),
        precision="fp16",
        inputs=(TensorSpec(name="input", dtype="float32", shape=(None, 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(None, 10)),),
        batch=record.options.batch,
        preprocessing=Preprocessing(resize=8, crop=(8, 8), mean=(0.5,), std=(0.5,), color="L"),
        opset=20,
        versions={},
        created="2026-11-01T00:00:00+00:00",
        engine=record,
    )


def rtx(version: str = "1.7.1.116", **options: Any) -> Manifest:
    return engine("tensorrt_rtx", version, **options)


def machine(
    driver: Driver | None = None,
    version: str | None = "11.4.0.106",
    cuda: int | None = 13,
    platform: str = "linux-x86_64",
) -> Machine:
    return Machine(driver or gpu(), platform, version, cuda)


def rtx_machine(capability: str = "8.9", **facts: Any) -> Machine:
    return machine(**{"driver": gpu("some GPU", capability), "version": "1.7.1.116", **facts})


# ---- the rules


@pytest.mark.parametrize(
    ("manifest", "fits"),
    [
        (engine(), machine()),
        (
            engine(),
            machine(gpu("NVIDIA H100 80GB HBM3")),
        ),  # another name of the same compute capability
        (engine(), machine(gpu(cuda="13.2"))),
        (engine(), machine(gpu(cuda="14.0"))),
        (engine(), machine(cuda=None)),
        (engine(compatibility="version"), machine()),
        (engine(compatibility="version"), machine(version="11.5.0.1")),
        (engine(version="10.13.0.35", compatibility="version"), machine(version="10.16.1.11")),
        (engine(compatibility="ampere+"), machine(gpu("NVIDIA A100", "8.0"))),
        (engine(compatibility="ampere+"), machine(gpu("NVIDIA RTX 5090", "12.0"))),
        (engine(compatibility="same-cc"), machine(gpu("NVIDIA H100 PCIe"))),
        (engine(strip_weights=True, refitted=True), machine()),
        (rtx(), rtx_machine("8.0")),
        (rtx(), rtx_machine("8.6")),
        (rtx(), rtx_machine("8.9")),
        (rtx(), rtx_machine("12.0")),
        (rtx(), rtx_machine("12.1")),
        (rtx(targets=("sm_89", "sm_120")), rtx_machine("8.9")),
        (rtx(targets=("sm_89", "sm_120")), rtx_machine("12.0")),
        (rtx(targets=("sm_75",)), rtx_machine("7.5")),
        (rtx(), rtx_machine(platform="win32-amd64")),
    ],
)
def test_a_machine_that_fits_has_no_obstacle(manifest: Manifest, fits: Machine) -> None:
    assert loadable(manifest, fits) == ()
    refuse("engine", loadable(manifest, fits))


@pytest.mark.parametrize(
    ("manifest", "other", "reason", "fix", "rebuild"),
    [
        (
            engine(),
            machine(gpu("NVIDIA A100", "8.0")),
            "it was built for compute capability 9.0, NVIDIA A100 has 8.0",
            "",
            True,
        ),
        (
            engine(compatibility="same-cc"),
            machine(gpu("NVIDIA A100", "8.0")),
            "it was built for compute capability 9.0, NVIDIA A100 has 8.0",
            "",
            True,
        ),
        (
            engine(compatibility="version"),
            machine(gpu("NVIDIA A100", "8.0")),
            "it was built for compute capability 9.0, NVIDIA A100 has 8.0",
            "",
            True,
        ),
        (
            engine(compatibility="ampere+"),
            machine(gpu("NVIDIA T4", "7.5")),
            "it was built for Ampere and later, NVIDIA T4 has 7.5",
            "",
            True,
        ),
        (
            engine(),
            machine(version="11.4.1.1"),
            "it was built by TensorRT 11.4.0.106, installed is 11.4.1.1",
            "pip install tensorrt==11.4.0.106",
            True,
        ),
        (
            engine(compatibility="version"),
            machine(version="11.3.9.9"),
            "it was built by TensorRT 11.4.0.106, installed is 11.3.9.9",
            "pip install tensorrt==11.4.0.106",
            True,
        ),
        (
            engine(compatibility="ampere+"),
            machine(version="11.5.0.1"),
            "it was built by TensorRT 11.4.0.106, installed is 11.5.0.1",
            "pip install tensorrt==11.4.0.106",
            True,
        ),
        (
            engine(),
            machine(version=None),
            "TensorRT is not installed",
            "pip install tensorrt==11.4.0.106",
            False,
        ),
        (
            engine(),
            machine(platform="win32-amd64"),
            "it was built on linux-x86_64, this is win32-amd64",
            "",
            True,
        ),
        (
            engine(),
            machine(gpu(cuda="12.8")),
            "the driver serves CUDA 12.8, the library needs CUDA 13",
            "install a newer driver",
            False,
        ),
        (
            engine(),
            machine(gpu(cuda="12.8"), cuda=None),
            "the driver serves CUDA 12.8, the library needs CUDA 13",
            "install a newer driver",
            False,
        ),
        (
            engine(),
            machine(NO_DRIVER),
            "the NVIDIA driver is not installed",
            "run it on a machine with an NVIDIA GPU",
            False,
        ),
        (
            engine(strip_weights=True),
            machine(),
            "its weights were stripped",
            "put weights in with refit",
            False,
        ),
        (
            rtx(),
            rtx_machine(version="1.8.0.1"),
            "it was built by TensorRT-RTX 1.7.1.116, installed is 1.8.0.1",
            "pip install tensorrt_rtx==1.7.1.116",
            True,
        ),
        (
            rtx(),
            rtx_machine(version=None),
            "TensorRT-RTX is not installed",
            "pip install tensorrt_rtx==1.7.1.116",
            False,
        ),
        (
            rtx(targets=("sm_89",)),
            rtx_machine("8.6"),
            "it was built for sm_89, some GPU has 8.6",
            "",
            True,
        ),
        (
            rtx(targets=("sm_120",)),
            rtx_machine("12.1"),
            "it was built for sm_120, some GPU has 12.1",
            "",
            True,
        ),
        (
            rtx(),
            rtx_machine(driver=NO_DRIVER),
            "the NVIDIA driver is not installed",
            "run it on a machine",
            False,
        ),
        (
            rtx(strip_weights=True),
            rtx_machine(),
            "its weights were stripped",
            "put weights in with refit",
            False,
        ),
    ],
)
def test_a_machine_that_does_not_fit_has_one_obstacle(
    manifest: Manifest, other: Machine, reason: str, fix: str, rebuild: bool
) -> None:
    (found,) = loadable(manifest, other)
    assert found.message.startswith(reason)
    assert found.hint.startswith(fix) if fix.startswith("pip") else fix in found.hint
    assert (found.code in MADE_AGAIN) is rebuild
    with pytest.raises(MissingRequirement) as caught:
        refuse("engine", (found,))
    assert str(caught.value) == f"this machine cannot load the engine: {found}"
    assert ("export it again" in caught.value.hint) is rebuild


@pytest.mark.parametrize("capability", ["7.5", "8.7", "9.0", "10.0"])
def test_an_rtx_engine_without_targets_is_not_for_every_gpu(capability: str) -> None:
    (found,) = loadable(rtx(), rtx_machine(capability))
    assert found.message == (
        "it was built for GPUs of compute capability 8.0, 8.6, 8.9, 12.0 and later, some GPU has "
        + capability
    )


def test_every_obstacle_is_named_and_so_is_every_fix() -> None:
    worst = machine(
        gpu("NVIDIA T4", "7.5", cuda="12.2"), version="10.16.1.11", platform="linux-aarch64"
    )
    manifest = engine(strip_weights=True)
    found = loadable(manifest, worst)
    assert len(found) == 5
    with pytest.raises(MissingRequirement) as caught:
        refuse("engine", found)
    said = str(caught.value)
    assert "\n" not in said
    assert all(one.message in said and one.hint in said for one in found)
    assert all(said.count(one.message) == 1 for one in found)


def test_another_gpu_of_the_same_kind_is_remarked_on_and_no_obstacle() -> None:
    other = machine(gpu("NVIDIA H100 80GB HBM3"))
    assert remarks(engine(), other) == (
        (
            "its kernels were chosen on NVIDIA H200; on NVIDIA H100 80GB HBM3 they may not be the"
            " fastest"
        ),
    )
    assert remarks(engine(), machine()) == ()
    assert remarks(engine(), machine(NO_DRIVER)) == ()
    assert remarks(rtx(), rtx_machine("8.9")) == ()  # its kernels are compiled where it runs


def test_an_onnx_file_has_neither() -> None:
    manifest = engine().model_copy(update={"kind": "onnx", "engine": None})
    assert loadable(manifest, machine(NO_DRIVER, version=None)) == ()
    assert remarks(manifest, machine(gpu("another"))) == ()


def test_this_machine_is_asked_for_each_library() -> None:
    for library in LIBRARIES.values():
        here = with_library(this_machine(), library)
        assert (here.version, here.cuda, here.platform) == (
            library.version,
            library.cuda,
            this_platform(),
        )


def test_nothing_found_is_nothing_refused() -> None:
    refuse("engine", ())


# ---- how to make it again

REQUEST: dict[str, Any] = {"format": "trt-rtx"}


def test_a_request_in_the_manifest_is_the_way_to_make_it_again() -> None:
    manifest, other = engine(), machine(gpu("NVIDIA A100", "8.0"))
    assert [one.hint for one in loadable(manifest, other)] == ["export it again on this machine"]
    asked = manifest.model_copy(update={"request": {"format": "trt"}})
    hints = [one.hint for one in loadable(asked, other)]
    assert hints == ["rebuild it here, from the request in its manifest"]


@pytest.mark.parametrize("target", RTX_TARGETS)
def test_the_hint_names_the_machines_own_target(target: str) -> None:
    built_for = ("sm_89",) if target != "sm_89" else ("sm_120",)
    on = rtx_machine(f"{target[3:-1]}.{target[-1]}")
    manifest = rtx(targets=built_for).model_copy(update={"request": REQUEST})
    (found,) = loadable(manifest, on)
    assert found.code in MADE_AGAIN
    assert found.hint == f"export it again, with target {target}"
    assert loadable(rtx(targets=(target,)), on) == ()


def test_without_a_gpu_the_request_keeps_the_targets() -> None:
    on = rtx_machine(driver=NO_DRIVER, version="1.8.0.1")
    for targets in (("sm_89", "sm_120"), ()):
        found = loadable(rtx(targets=targets).model_copy(update={"request": REQUEST}), on)
        assert found[0].hint.endswith(", or rebuild it here, from the request in its manifest")


def test_an_engine_without_targets_is_built_anew_for_the_machines_own() -> None:
    on = rtx_machine("7.5")
    (found,) = loadable(rtx(), on)
    assert found.hint == "export it again, with target sm_75"
    assert loadable(rtx(targets=("sm_75",)), on) == ()


@pytest.mark.parametrize("targets", [(), ("sm_89",)])
def test_where_the_library_serves_no_such_gpu_building_anew_is_no_way_out(
    targets: tuple[str, ...],
) -> None:
    (found,) = loadable(rtx(targets=targets), rtx_machine("9.0"))
    assert found.code not in MADE_AGAIN
    assert "export an engine of TensorRT" in found.hint


# ---- packages

HOST = Host("2.13.0+cpu", None, "linux-x86_64", "AVX512", frozenset({"avx2", "avx512f"}), None)
ON_H200: dict[str, Any] = {"torch": "2.13.0+cu130", "cuda": "13.0", "compute_capability": "9.0"}


def package(batch: str = "1:8", **changes: Any) -> Manifest:
    """Compiled on `HOST`, or with ``device="cuda"`` on an H200."""
    sizes = BatchRange.parse(batch)
    gpu_facts = {**ON_H200, "gpu": "NVIDIA H200"} if changes.get("device") == "cuda" else {}
    record = PackageRecord.model_validate(
        {
            "torch": HOST.torch,
            "cuda": None,
            "device": "cpu",
            "platform": HOST.platform,
            "cpu_capability": "AVX512",
            "cpu_flags": ("avx2", "avx512f"),
            "precision": "fp16",
            "batch": sizes,
            "frozen": True,
            "layers": (),
            "inputs": engine().inputs,
            "outputs": engine().outputs,
            "kernels": {},
            **gpu_facts,
            **changes,
        }
    )
    made = {
        "kind": "pt2",
        "file": "model.pt2",
        "opset": None,
        "engine": None,
        "package": record,
        "batch": sizes,
    }
    return Manifest.model_validate({**engine().model_dump(), **made})


def meets(**changes: Any) -> Machine:
    return replace(machine(NO_DRIVER), host=replace(HOST, **changes))


@pytest.mark.parametrize(
    ("manifest", "fits"),
    [
        (package(), meets()),
        (package(), meets(torch="2.13.0", cpu_flags=HOST.cpu_flags | {"amx_tile"})),
        (package(device="cuda"), meets(**ON_H200)),
    ],
)
def test_a_machine_that_fits_a_package_has_no_obstacle(manifest: Manifest, fits: Machine) -> None:
    assert loadable(manifest, fits) == ()


@pytest.mark.parametrize(
    ("manifest", "other", "reason", "rebuild"),
    [
        (
            package(),
            meets(torch="2.14.0"),
            "compiled by PyTorch 2.13.0+cpu, installed is 2.14.0",
            True,
        ),
        (
            package(),
            meets(cpu_flags=frozenset({"avx2"})),
            "may use avx512f, which this processor lacks",
            True,
        ),
        (
            package(),
            meets(platform="linux-aarch64"),
            "compiled on linux-x86_64, this is linux-aarch64",
            True,
        ),
        (
            package(device="cuda"),
            meets(**{**ON_H200, "compute_capability": "8.9"}),
            "this GPU has 8.9",
            True,
        ),
        (package(device="cuda"), meets(), "PyTorch can use none here", False),
    ],
)
def test_what_keeps_a_package_from_loading(
    manifest: Manifest, other: Machine, reason: str, rebuild: bool
) -> None:
    (found,) = loadable(manifest, other)
    assert reason in found.message
    assert (found.code in MADE_AGAIN) is rebuild
    assert ("`device` cpu" in found.hint) is not rebuild


def test_a_package_says_how_to_make_it_again_and_where_it_runs() -> None:
    other = meets(torch="2.14.0")
    where = ", or run it where it was made for: PyTorch 2.13.0, linux-x86_64"
    assert loadable(package(), other)[0].hint == "export it again on this machine" + where
    asked = package().model_copy(update={"request": {"format": "pt2"}})
    (found,) = loadable(asked, other)
    assert found.hint == "rebuild it here, from the request in its manifest" + where


def test_pytorch_is_asked_of_this_machine_for_packages_alone() -> None:
    assert machine_for(engine()).host is None
    host = machine_for(package()).host
    assert host is not None
    assert host.torch == torch.__version__
