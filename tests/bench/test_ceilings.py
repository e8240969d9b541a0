"""Measuring and keeping a machine's ceilings; the stored file's faults, and calls that lie."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fakes.ceilings import environment, plant
from resnext.errors import SessionFailed
from resnext.storage import write_cached
from resnext_bench.limits import ceilings, measuring, products
from resnext_bench.limits.ceilings import MachineCeilings, measured_ceilings, stored_ceilings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path))


def test_ceilings_are_stored_for_machine_torch_device_and_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    here = environment()
    assert stored_ceilings(here, "cpu", 2) is None
    measured = measured_ceilings(here, "cpu", 2)
    assert stored_ceilings(here, "cpu", 2) == measured
    for other in (
        stored_ceilings(here, "cpu", 1),
        stored_ceilings(here, "cuda", None),
        stored_ceilings(environment("Another"), "cpu", 2),
    ):
        assert other is None
    monkeypatch.setattr(ceilings, "version", lambda _: "99.0")
    assert stored_ceilings(here, "cpu", 2) is None


def test_vnni_is_measured_apart_from_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    child = plant(monkeypatch, amx=True)
    measured = measured_ceilings(environment(), "cpu", 2)
    assert child.calls[1] == (
        "cpu",
        2,
        ("bf16", "int8"),
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"},
    )
    assert [one.name for one in measured.products] == [
        "fp32 avx512",
        "int8 amx",
        "int8 avx512_vnni",
    ]
    assert measured.fastest("int8").name == "int8 amx"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # the user's own limit holds
    assert len(measured_ceilings(environment(), "cpu", 2).products) == 2


def test_a_precision_that_the_device_lacks_has_the_ceiling_of_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    measured = measured_ceilings(environment(), "cpu", 2)
    assert measured.fastest("bf16").name == "fp32 avx512"
    assert measured.ceiling("bf16").operations_per_s == 3e11
    assert measured.ceiling("int8").bytes_per_s == 2.5e10


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"copy_bytes_per_s": float("inf")}, "copy_bytes_per_s"),
        ({"copy_bytes_per_s": 3e12}, "copy is impossibly fast"),
        ({"launch_ns": -1.0}, "launch_ns"),
        ({"products": []}, "products"),
        (
            {"products": [{"precision": "int8", "instructions": "amx", "operations_per_s": 6e13}]},
            "int8 amx is impossibly fast",
        ),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_call_that_has_done_nothing_is_no_ceiling(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], part: str
) -> None:
    plant(monkeypatch, **changes)
    with pytest.raises(SessionFailed, match=part):
        measured_ceilings(environment(), "cpu", 2)
    assert stored_ceilings(environment(), "cpu", 2) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _fifo_free_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_flip, _cut, _fifo_free_folder])
def test_a_damaged_file_is_noted_and_not_used(monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    plant(monkeypatch)
    measured_ceilings(environment(), "cpu", 2)
    path = ceilings._path(environment(), "cpu", 2)
    damage(path)
    notes: list[str] = []
    assert stored_ceilings(environment(), "cpu", 2, notes.append) is None
    assert notes == [f"the stored ceilings are damaged: {path}"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format_version": 2}, "format version 1"),
        ({"copy_bytes_per_s": "fast"}, "format version 1"),
        ({"more": 1}, "format version 1"),
        ({"machine": "Another, 2 cores"}, "another machine"),
        ({"threads": 1}, "another machine"),
    ],
)
def test_a_foreign_file_is_noted_and_not_used(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], part: str
) -> None:
    plant(monkeypatch)
    stored = measured_ceilings(environment(), "cpu", 2).model_dump(mode="json")
    write_cached(
        ceilings._path(environment(), "cpu", 2), json.dumps({**stored, **changes}).encode()
    )
    notes: list[str] = []
    assert stored_ceilings(environment(), "cpu", 2, notes.append) is None
    assert part in notes[0]


def test_ceilings_that_cannot_be_stored_are_still_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ceilings").write_text("a file in the place of the folder")
    plant(monkeypatch)
    notes: list[str] = []
    assert measured_ceilings(environment(), "cpu", 2, notes.append).threads == 2
    assert "cannot be stored" in notes[0]


def test_a_process_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            [], 1, "", "Traceback\n  more\nRuntimeError: no `memory`\n"
        )

    monkeypatch.setattr(subprocess, "run", dies)
    with pytest.raises(SessionFailed, match=r"could not be measured: RuntimeError: no 'memory'$"):
        ceilings.run_measuring("cpu", 1)

    def hangs(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(SessionFailed, match="could not be measured in 300 s"):
        ceilings.run_measuring("cpu", 1)


# ---- what is measured

_AMX = (
    "onednn_verbose,v1,primitive,create:cache_miss,cpu,matmul,jit:avx512_core,,,\n"
    "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx10_1_512_amx,undef,src:u8,,\n"
)


@pytest.mark.parametrize(
    ("precision", "log", "name"),
    [
        ("int8", _AMX, "amx"),
        ("bf16", _AMX, "amx"),
        ("int8", _AMX.replace("avx10_1_512_amx", "avx10_1_512"), "avx512_vnni"),
        ("int8", _AMX.replace("avx10_1_512_amx", "avx512_core_vnni"), "avx512_vnni"),
        ("int8", _AMX.replace("avx10_1_512_amx", "avx512_core"), "avx512"),
        ("int8", _AMX.replace("avx10_1_512_amx", "avx2_vnni"), "avx2_vnni"),
        ("bf16", _AMX.replace("avx10_1_512_amx", "avx512_core_bf16"), "avx512_bf16"),
        ("bf16", _AMX.replace("avx10_1_512_amx", "avx512_core"), "avx512"),
        ("fp16", _AMX.replace("avx10_1_512_amx", "avx10_1_512"), "avx512_fp16"),
        ("fp32", _AMX.replace("avx10_1_512_amx", "avx512_core"), "avx512"),
        ("int8", _AMX.replace("brg_matmul:avx10_1_512_amx", "acl"), "acl"),
        ("fp32", "onednn_verbose,v1,info,cpu,isa:Intel AMX\n", None),
        ("fp32", "", None),
    ],
)
def test_the_instruction_set_is_that_of_the_kernel_that_ran(
    precision: str, log: str, name: str | None
) -> None:
    assert products.named_instructions(precision, log) == name


def test_precisions_that_the_processor_converts_are_left_out() -> None:
    assert products.cpu_precisions({"avx2"}) == ("fp32", "int8")
    assert products.cpu_precisions({"avx512_vnni", "amx_bf16"}) == ("fp32", "bf16", "int8")
    assert products.cuda_precisions((7, 0)) == ("fp32", "fp16")
    assert products.cuda_precisions((9, 0)) == ("fp32", "fp16", "bf16", "tf32", "int8", "fp8")


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        products, "_FORMS", dict.fromkeys(products._FORMS, ((64, 64, 64), (128, 64, 128)))
    )
    monkeypatch.setattr(measuring, "_COPIED_BYTES", {"cpu": (1 << 16, 1 << 14)})
    monkeypatch.setattr(measuring, "VISIT_S", 0.001)
    monkeypatch.setattr(measuring, "cpu_flags", lambda: frozenset({"avx2"}))
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_small")
def test_small_products_make_a_record() -> None:
    with torch.inference_mode():
        found = measuring.measure_cpu(1)
        alone = measuring.measure_cpu(1, ("int8",))
    assert [one["precision"] for one in found["products"]] == ["fp32", "int8"]
    assert found["notes"] == []
    assert found["copy_bytes_per_s"] > 0 < found["launch_ns"]
    assert alone.keys() == {"notes", "products"}


@pytest.mark.usefixtures("_small")
def test_a_precision_that_torch_cannot_multiply_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: int) -> None:
        raise RuntimeError("no `onednn` here\nsecond line")

    monkeypatch.setattr(products, "_cpu_int8", refuses)
    with torch.inference_mode():
        found = measuring.measure_cpu(1)
    assert [one["precision"] for one in found["products"]] == ["fp32"]
    assert found["notes"] == ["int8 was not measured: no 'onednn' here"]


class FakeCuda:
    """`torch.cuda` of a machine whose device is the CPU."""

    class Stream:
        cuda_stream = 7

        def synchronize(self) -> None:
            """Nothing runs later."""

    class CUDAGraph:
        def replay(self) -> None:
            """What was captured stays captured."""

    graph = stream = staticmethod(lambda *_, **__: nullcontext())

    @staticmethod
    def synchronize() -> None:
        """Nothing runs later."""

    @staticmethod
    def get_device_capability() -> tuple[int, int]:
        return (9, 0)


def test_on_a_gpu_tf32_is_on_for_its_own_product_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake GPU: the code for one has not run on one."""
    allowed: list[bool] = []

    def time_device(queue: Any, count: int) -> tuple[list[int], int]:
        queue.enqueue()
        assert queue.cuda_stream == 7
        allowed.append(torch.backends.cuda.matmul.allow_tf32)
        return [1000] * count, 1000 * count

    def product(precision: str, _: torch.device) -> products.Product:
        if precision == "fp8":
            raise RuntimeError("no fp8 here")
        return real(precision, torch.device("cpu"), 64)

    real = products.cuda_product
    monkeypatch.setattr(torch, "cuda", FakeCuda)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=False))
    monkeypatch.setattr(products, "cuda_product", product)
    monkeypatch.setattr(measuring, "_COPIED_BYTES", {"cpu": (1 << 16, 1 << 14)})
    monkeypatch.setattr(measuring, "time_device", time_device)
    with torch.inference_mode():
        found = measuring.measure_cuda(torch.device("cpu"))
    assert [(one["precision"], one["instructions"]) for one in found["products"]] == [
        ("fp32", "cuda cores"),
        ("fp16", "tensor cores"),
        ("bf16", "tensor cores"),
        ("tf32", "tensor cores"),
        ("int8", "tensor cores"),
    ]
    assert found["notes"] == ["fp8 was not measured: no fp8 here"]
    assert found["launch_ns"] == 1000 / products.LAUNCHES
    assert found["copy_bytes_per_s"] == 2 * (1 << 14) / 1e-6
    one_round = [False] * 6 + [True] * 2 + [False] * 6  # two timings of each of seven calls
    assert allowed[: len(one_round)] == one_round


def test_the_fastest_call_of_all_counts() -> None:
    """Whatever a neighbor does to single calls, and however slow the first ones are."""
    left = [900, 800, 700, 500, *[100] * 100]

    def times_ns(_: Any, count: int) -> list[int]:
        times = [left.pop(0) if len(left) > 1 else left[0] for _ in range(count)]
        return [times[0], *(10 * time for time in times[1:])]

    best = measuring.Best(lambda: None)
    measuring.time_all([best], times_ns)
    assert best.nanoseconds == 100


def test_a_copy_returns_to_a_part_only_after_all_others() -> None:
    run = products.copy(64, 16, torch.device("cpu"))
    target = next(
        cell.cell_contents
        for cell in run.__closure__ or ()
        if isinstance(cell.cell_contents, torch.Tensor) and 2 in cell.cell_contents
    )
    for copied in (16, 32, 48, 64):
        run()
        assert int((target == 1).sum()) == copied


@pytest.mark.exhaustive
def test_the_real_processor_reaches_more_in_fewer_bits() -> None:
    """Also that the child process runs, and that its labels are of this processor's sets."""
    found = ceilings.run_measuring("cpu", 1)
    record = MachineCeilings(
        created="now", machine="this", torch="this", device="cpu", threads=1, **found
    )
    speeds = {one.precision: one.operations_per_s for one in record.products}
    assert speeds["int8"] > speeds["fp32"] > 1e9
    assert record.copy_bytes_per_s > 1e9
