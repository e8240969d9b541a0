"""The cache of engines: built once for each graph, library, machine and request, reused after,
never trusted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange, CheckRecord
from resnext.artifact.records import EngineOptions
from resnext.errors import MissingRequirement
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import this_machine
from resnext.runtimes.trt.library import Library, TensorRT, TensorRTRTX
from resnext.weights.spec import Weights
from resnext_export import proof, store
from resnext_export.formats.tensorrt import machine_facts
from resnext_export.request import ExportRequest
from resnext_export.store import Stored

OPTIONS = EngineOptions(profiles=(BatchRange.parse("1:8:64"),))


def engine_or_reuse(
    parent: Artifact, weights: Weights, kind: str, options: EngineOptions, folder: Path
) -> Stored:
    fields = options.model_dump(exclude={"profiles", "fallbacks"})
    request = ExportRequest(
        format=kind,
        batch=",".join(f"{each.min}:{each.opt}:{each.max}" for each in options.profiles),
        fallbacks=options.fallbacks or "fail",
        **fields,
    )
    return store.build_or_reuse(request, weights, parent, folder)


ADA = Driver(None, 1, "13.0", (Gpu("NVIDIA L4", "8.9"),))


@pytest.fixture
def get(
    rtx: Library, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> Callable[..., Stored]:
    def get(
        parent: Artifact = digits_artifact, options: EngineOptions = OPTIONS, **more: Any
    ) -> Stored:
        return engine_or_reuse(parent, digits, rtx.kind, options.model_copy(update=more), tmp_path)

    return get


def test_the_second_call_reuses_what_the_first_built(get: Callable[..., Stored]) -> None:
    first, second = get(), get()
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact == second.artifact


@pytest.mark.parametrize(
    "other",
    [
        {"profiles": (BatchRange.parse("1:8:32"),)},
        {"profiles": (BatchRange.parse("1:8:64"), BatchRange.parse("128"))},
        {"targets": ("sm_89",)},
        {"tf32": True},
        {"workspace_mib": 64},
        {"fallbacks": ()},
    ],
)
def test_another_request_is_another_engine(
    other: dict[str, Any], get: Callable[..., Stored]
) -> None:
    first, second = get(), get(**other)
    assert (first.reused, second.reused) == (False, False)
    assert first.artifact.path != second.artifact.path
    assert get().reused
    assert get(**other).reused


def test_another_graph_is_another_engine(
    get: Callable[..., Stored], fp16_artifact: Artifact
) -> None:
    first, second = get(), get(fp16_artifact)
    assert not second.reused
    assert first.artifact.path != second.artifact.path
    assert second.artifact.manifest.precision == "fp16"


def test_another_version_of_the_library_builds_anew(
    get: Callable[..., Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get()
    monkeypatch.setattr(TensorRTRTX, "version", "9.9.9.9")
    second = get()
    assert not second.reused
    assert first.artifact.path != second.artifact.path
    assert second.artifact.manifest.engine is not None
    assert second.artifact.manifest.engine.version == "9.9.9.9"


def test_the_driver_is_asked_once_for_an_engine(
    get: Callable[..., Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Driver] = []

    def ask() -> Driver:
        asked.append(Driver("none"))
        return asked[-1]

    monkeypatch.setattr(cuda_driver, "probe_driver", ask)
    assert not get().reused
    assert len(asked) == 1


def test_another_gpu_or_driver_is_another_machine(
    rtx: Library, plant_driver: Callable[[Driver], None]
) -> None:
    drivers = [
        Driver("none"),
        ADA,
        Driver(None, 1, "13.1", ADA.gpus),
        Driver(None, 1, "13.0", (Gpu("L4", "8.6"),)),
    ]
    found = []
    for driver in drivers:
        plant_driver(driver)
        found.append(store._digest(machine_facts(rtx, this_machine())))
    assert len(set(found)) == len(drivers)


@pytest.mark.parametrize("damage", ["cut", "altered", "no manifest", "another parent"])
def test_a_damaged_entry_is_built_again(damage: str, get: Callable[..., Stored]) -> None:
    good = get().artifact
    raw = bytearray(good.path.read_bytes())
    if damage == "cut":
        good.path.write_bytes(raw[:-10])
    elif damage == "altered":
        raw[len(raw) // 2] ^= 1
        good.path.write_bytes(raw)
    elif damage == "no manifest":
        (good.directory / "manifest.json").unlink()
    else:
        other = good.manifest.model_copy(update={"parent_sha256": "0" * 64})
        (good.directory / "manifest.json").write_text(other.to_json())
    again = get()
    assert not again.reused
    assert read_artifact(again.artifact.directory) == again.artifact
    assert again.artifact.manifest.parent_sha256 == good.manifest.parent_sha256
    assert get().reused


@pytest.mark.exhaustive
def test_two_processes_at_a_time_build_it_once(
    rtx: Library, digits_artifact: Artifact, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path\nfrom resnext.artifact.files import"
        " read_artifact\nfrom resnext.weights.spec import"
        " load_weights\nfrom resnext_export import ExportRequest\nfrom resnext_export.store import"
        f" build_or_reuse\nrequest = ExportRequest(format={rtx.kind!r})\nparent ="
        " read_artifact(Path(sys.argv[1]))\nbuilt = build_or_reuse(request,"
        " load_weights('digits'), parent, Path(sys.argv[2]))\nprint(built.reused)\n"
    )
    command = [sys.executable, "-c", script, str(digits_artifact.directory), str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = sorted(child.communicate(timeout=240)[0].strip() for child in children)
    assert said == ["False", "True"]


# ---- with a GPU, planted


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def prove(_artifact: object, expected: proof.Expected, backend: str) -> CheckRecord:
        done.append(backend)
        return CheckRecord(batches=expected.batches, backend=backend, max_error=0.0, tolerance=1e-4)

    monkeypatch.setattr(proof, "prove", prove)
    return done


def test_an_unchecked_engine_is_not_reused_where_it_could_have_been_checked(
    get: Callable[..., Stored], plant_driver: Callable[[Driver], None], proofs: list[str]
) -> None:
    plant_driver(ADA)
    first = get().artifact
    assert proofs == ["trt-rtx"]
    assert get().reused
    unchecked = first.manifest.model_copy(update={"check": None})
    (first.directory / "manifest.json").write_text(unchecked.to_json())
    again = get()
    assert not again.reused
    assert again.artifact.manifest.check is not None
    assert proofs == ["trt-rtx", "trt-rtx"]


def test_an_engine_that_cannot_run_here_is_reused_unchecked(
    get: Callable[..., Stored], plant_driver: Callable[[Driver], None], proofs: list[str]
) -> None:
    plant_driver(ADA)
    assert get(targets=("sm_120",)).artifact.manifest.check is None
    assert get(targets=("sm_120",)).reused
    assert proofs == []


def test_tensorrt_gets_a_file_of_kernel_times_for_each_machine_and_rtx_none(
    digits: Weights,
    digits_artifact: Artifact,
    engine: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant_driver: Callable[[Driver], None],
) -> None:
    from resnext_export.formats import tensorrt

    asked: list[Path | None] = []

    def build(*_: object, timing_cache: Path | None, **__: object) -> None:
        asked.append(timing_cache)

    def publish(_: object, entry: Path, build: Callable[[Path], object], **__: object) -> Artifact:
        build(entry)
        return engine

    monkeypatch.setattr(tensorrt, "_build", build)
    monkeypatch.setattr(store, "publish", publish)
    monkeypatch.setattr(TensorRT, "version", "11.4.0.106")
    for gpu in ("NVIDIA L4", "NVIDIA L4", "NVIDIA L40"):
        plant_driver(Driver(None, 1, "13.0", (Gpu(gpu, "8.9"),)))
        engine_or_reuse(digits_artifact, digits, "trt", OPTIONS, tmp_path)
    assert asked[0] == asked[1] != asked[2]
    assert asked[0] is not None
    assert asked[0].parent == tmp_path / "trt-timing"
    engine_or_reuse(digits_artifact, digits, "trt-rtx", OPTIONS, tmp_path)
    assert asked[3] is None


def test_neither_library_is_a_clear_error(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRT, "version", None)
    monkeypatch.setattr(TensorRTRTX, "version", None)
    with pytest.raises(MissingRequirement, match="pip install tensorrt"):
        engine_or_reuse(digits_artifact, digits, "trt", OPTIONS, tmp_path)
    assert list(tmp_path.iterdir()) == []
