"""A package is what was asked for, computes what PyTorch computes, and nothing else is left
behind.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fakes.package import record_here
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import PackageRecord
from resnext.errors import GateFailed, MissingRequirement
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers
from resnext.precision import Precision
from resnext.runtimes.pt2.package import read_package
from resnext.verify.eager import reference_logits
from resnext.verify.parity import Parity, compare, gate_for
from resnext.weights.spec import Weights, load_weights
from resnext_export.convert import pt2_from_torch as module
from resnext_export.convert.pt2_from_torch import pt2_from_torch
from resnext_export.convert.pt2_graph import graph_layers

ANY = BatchRange(min=1, opt=8, max=None)
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="packages are made by a C++ compiler"
)


def compiles(test: Any) -> Any:
    """Mark a test that compiles, which takes long."""
    return pytest.mark.exhaustive(pytest.mark.slow(needs_compiler(test)))


@pytest.fixture(scope="module")
def color() -> Weights:
    """Two stages on 32 x 32 pixels of three channels: what the big networks have and the shipped
    ones have not.
    """
    config = ResNeXtConfig((1, 1), 8, 4, (32, 32), 3, 10, stem="imagenet", stem_channels=16)
    return load_weights("seeded:3", config)


def logits(path: Path, arrays: NDArray[Any]) -> NDArray[Any]:
    """What the package gives, through PyTorch alone."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
    found: NDArray[Any] = loader.run([torch.from_numpy(np.array(arrays))])[0].numpy().copy()
    return found


def parity(
    path: Path, weights: Weights, size: int, precision: Precision = "fp32", *, baked: bool = False
) -> Parity:
    pixels = seeded_pixels(weights.config, size)
    images = weights.preprocessing.normalize(pixels)
    reference = reference_logits(weights, images)
    baseline = (
        None
        if precision == "fp32"
        else reference_logits(weights, images, torch.float16).astype(np.float64)
    )
    return compare(
        reference,
        logits(path, pixels if baked else images),
        gate=gate_for(precision),
        baseline=baseline,
    )


@dataclass(frozen=True)
class Exported:
    """One export, and what it left in the working and the temporary folder and in the
    environment.
    """

    weights: Weights
    path: Path
    record: PackageRecord
    left: list[Path]
    cache: tuple[str | None, str | None]


@pytest.fixture(scope="module", params=["digits", "color"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    weights: Weights = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    for name in ("cwd", "tmp"):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "cwd")
        patch.setattr("tempfile.tempdir", str(folder / "tmp"))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept")
        patch.delenv("TRITON_CACHE_DIR", raising=False)
        record = pt2_from_torch(weights, ANY, folder / "model.pt2", metadata={"resnext.a": "ü"})
        left = [*(folder / "cwd").iterdir(), *(folder / "tmp").iterdir()]
        cache = (os.environ.get("TORCHINDUCTOR_CACHE_DIR"), os.environ.get("TRITON_CACHE_DIR"))
    return Exported(weights, folder / "model.pt2", record, left, cache)


@compiles
def test_a_symbolic_batch_takes_any_size_and_computes_what_pytorch_computes(
    exported: Exported,
) -> None:
    for size in (1, 2, 7, 8, 9):
        outcome = parity(exported.path, exported.weights, size)
        assert outcome.passed, (size, outcome.failures)
        assert outcome.max_error is not None
        assert outcome.max_error < 5e-6


@compiles
def test_nothing_else_is_left(exported: Exported) -> None:
    assert exported.left == []
    assert exported.cache == ("/kept", None)


@compiles
def test_a_package_tells_nothing_of_the_machine_s_folders(exported: Exported) -> None:
    with zipfile.ZipFile(exported.path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".py")]
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".cpp")]
        contents = b"".join(archive.read(name) for name in archive.namelist())
    for own in (exported.path.parent, Path(torch.__file__).parent, Path(module.__file__).parent):
        assert os.fsencode(own) not in contents
    assert sources == [b"// The source is not packaged.\n"]


def test_a_wrapper_s_source_is_packaged_as_a_comment_and_no_other(
    digits: Weights, tmp_path: Path
) -> None:
    """PyTorch 2.11 opens no package without a .cpp file: it finds the metadata by that file's
    name.
    """
    names = (
        "resnext.wrapper.cpp",
        "resnext.kernel.cpp",
        "resnext.wrapper.so",
        "resnext.wrapper_metadata.json",
    )
    files = [tmp_path / name for name in names]
    for file in files:
        file.write_text(f"{{}} of {file}")
    module._write(tmp_path / "model.pt2", files, record_here(digits), tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        written = {
            name.rpartition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if "/aotinductor/" in name
        }
    assert set(written) == set(names) - {"resnext.kernel.cpp"}
    assert written["resnext.wrapper.cpp"] == b"// The source is not packaged.\n"
    assert os.fsencode(tmp_path) not in b"".join(written.values())


@compiles
def test_metadata_and_record_can_be_read_back(exported: Exported) -> None:
    loaded = torch._C._aoti.AOTIModelPackageLoader(
        str(exported.path), "model", True, 1, -1
    ).get_metadata()
    read = read_package(exported.path)
    assert read.metadata == loaded
    assert loaded["resnext.a"] == "ü"
    assert loaded["AOTI_DEVICE_KEY"] == "cpu"
    assert read.record == exported.record


@compiles
def test_the_record_names_every_layer_and_what_the_code_needs(exported: Exported) -> None:
    record, config = exported.record, exported.weights.config
    assert record.inputs[0].shape == (None, config.in_channels, *config.input_size)
    assert {layer.module for layer in record.layers} == {layer.name for layer in layers(config)}
    assert {layer.dtype for layer in record.layers} == {"float32"}
    assert sum(record.kernels.values()) == len(record.layers)  # a library kernel computes each
    assert record.frozen == (config.in_channels > 1)
    assert record.torch == torch.__version__
    assert record.cpu_flags


@compiles
@pytest.mark.parametrize(
    "exported", ["color"], indirect=True
)  # one network is enough, compiling takes long
def test_the_same_export_gives_the_same_bytes(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(exported.path.parent / "tmp"))
    pt2_from_torch(exported.weights, ANY, tmp_path / "model.pt2", metadata={"resnext.a": "ü"})
    assert (tmp_path / "model.pt2").read_bytes() == exported.path.read_bytes()


def test_an_array_that_one_scope_declared_is_not_another_s() -> None:
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch.utils._ordered_set import OrderedSet

    class Scope:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def writeline(self, line: str) -> None:
            self.lines.append(line)

    class Wrapper(CppWrapperCpu):
        def __init__(self) -> None:
            self.codegen_int_array_var_cache: dict[Any, Any] = {}
            self.int_array_id = itertools.count()
            self.declared_int_array_vars = OrderedSet[str]()

    wrapper, scopes, original = Wrapper(), (Scope(), Scope()), CppWrapperCpu.codegen_int_array_var
    with module._lasting_names():
        # A bound method is made for each call, and the next one gets its address.
        first, other = (wrapper.codegen_int_array_var("{1L}", scope.writeline) for scope in scopes)
        again = wrapper.codegen_int_array_var("{1L}", scopes[0].writeline)
    assert (first, other, again) == ("int_array_0", "int_array_1", "int_array_0")
    assert [len(scope.lines) for scope in scopes] == [1, 1]
    assert CppWrapperCpu.codegen_int_array_var is original


@compiles
def test_a_frozen_stem_of_one_channel_is_why_it_is_not_frozen(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = module._compiled

    def frozen(program: Any, example: Any, options: dict[str, Any], metadata: Any) -> list[Path]:
        assert not options["freezing"]
        return compiled(program, example, {**options, "freezing": True}, metadata)

    monkeypatch.setattr(module, "_compiled", frozen)
    pt2_from_torch(digits, ANY, tmp_path / "model.pt2")
    outcome = parity(tmp_path / "model.pt2", digits, 8)
    assert not outcome.passed  # where it passes, PyTorch was mended, and the exception can go


@compiles
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_static_batch_with_preprocessing_inside_takes_pixels(
    precision: Precision, digits: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    record = pt2_from_torch(
        digits, BatchRange.parse("3"), path, bake_preprocessing=True, precision=precision
    )
    assert record.inputs[0].shape == (3, 8, 8, 1)
    assert record.inputs[0].dtype == "uint8"
    assert record.outputs[0].shape == (3, 10)
    assert record.frozen
    outcome = parity(path, digits, 3, precision, baked=True)
    assert outcome.passed, outcome.failures
    assert outcome.max_error is not None
    assert (outcome.max_error < 5e-6) == (
        precision == "fp32"
    )  # and fp16 is not float32 in disguise
    assert {layer.dtype for layer in record.layers} == {
        "float32" if precision == "fp32" else "float16"
    }


@compiles
def test_resnext50_is_within_the_gate(tmp_path: Path) -> None:
    weights = load_weights("seeded", "resnext50_32x4d")
    record = pt2_from_torch(weights, ANY, tmp_path / "model.pt2")
    assert record.frozen
    assert sum(record.kernels.values()) == len(record.layers) == 54
    for images in (1, 3):
        outcome = parity(tmp_path / "model.pt2", weights, images)
        assert outcome.passed, outcome.failures


# Faults that the checks of the graph must catch, before anything is compiled.


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: Any) -> Any:
        raise AssertionError("a graph that is not as asked was compiled")

    monkeypatch.setattr(module, "_compiled", compile_nothing)
    monkeypatch.setattr(module, "_target", lambda: ({}, ()))
    monkeypatch.setattr(module, "refuse_if_not_compilable", lambda *_: None)


@pytest.mark.usefixtures("uncompiled")
def test_a_graph_as_asked_goes_to_the_compiler(digits: Weights, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was compiled"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2")


@pytest.mark.usefixtures("uncompiled")
def test_batch_norms_that_stay_are_refused(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fold_batch_norms", lambda model: model)
    with pytest.raises(GateFailed, match="13 batch norms were not folded"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.usefixtures("uncompiled")
def test_float32_where_float16_was_asked_for_is_refused(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HalfInside", lambda model: model)
    with pytest.raises(GateFailed, match="14 layers are not fp16, first conv1 with float32"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2", precision="fp16")


@pytest.mark.usefixtures("uncompiled")
def test_a_batch_that_was_fixed_is_refused(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = module._traced
    monkeypatch.setattr(
        module, "_traced", lambda model, example, _: traced(model, example, BatchRange.parse("8"))
    )
    with pytest.raises(GateFailed, match="fixed the batch at 8"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2")


@pytest.mark.usefixtures("uncompiled")
def test_a_layer_that_is_lost_is_refused(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "graph_layers", lambda program: graph_layers(program)[1:])
    with pytest.raises(GateFailed, match="lost or added 1 layers, first conv1"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2")


# Machines that lack something.


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_cuda_package_needs_cuda(digits: Weights, tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match="compile for the processor: `device` cpu"):
        pt2_from_torch(digits, ANY, tmp_path / "model.pt2", device="cuda")


_NO_COMPILER = """
import sys
from pathlib import Path
from resnext.errors import MissingRequirement
from resnext.artifact.manifest import BatchRange
from resnext.weights.spec import load_weights
from resnext_export.convert.pt2_from_torch import pt2_from_torch
try:
    pt2_from_torch(load_weights("digits"), BatchRange.parse("2"), Path("model.pt2"))
except MissingRequirement as exc:
    print(exc)
    sys.exit(exc.exit_code)
"""


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path) -> None:
    for folder in ("cwd", "tmp"):
        (tmp_path / folder).mkdir()
    environment = {**os.environ, "PATH": "", "TMPDIR": str(tmp_path / "tmp")}
    environment.pop("CXX", None)
    command = [sys.executable, "-W", "error", "-c", _NO_COMPILER]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path / "cwd", capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "apt-get install g++" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert not list((tmp_path / "cwd").iterdir())
    assert not list((tmp_path / "tmp").iterdir())


def test_what_the_compiler_blames_is_the_one_line() -> None:
    from torch._inductor.exc import CppCompileError

    from resnext.errors import SessionFailed

    with (
        pytest.raises(
            SessionFailed, match=r"could not be compiled: a\.cpp:1: error: bad value"
        ) as caught,
        module._compiler_errors(),
    ):
        raise CppCompileError(
            ["g++", "a.cpp"], "In file:\na.cpp:1: error: bad value for -march\nmore"
        )
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({*module._LEVELS["x86-64-v4"], "avx512_vnni", "sse4a"}, "x86-64-v4"),
        ({*module._LEVELS["x86-64-v3"], "sse4a"}, "x86-64-v3"),
        ({"sse4a", "neon"}, None),
    ],
)
def test_code_is_for_a_level_of_processors_where_there_is_one(
    flags: set[str], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpu_vec_isa, list_options

    class Picked:
        def build_arch_flags(self) -> str:
            return "-mavx2 -mavx512vnni -mamx-tile"

    if "cpp.march" not in list_options():
        pytest.skip("this PyTorch compiles for the building machine alone")
    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", Picked)
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(flags))
    options, needed = module._target()
    assert options == ({} if level is None else {"cpp.march": level})
    # sse4a is the machine's own: only code that is made for that very machine may use it.
    assert ("sse4a" in needed) == (level is None)
    assert ("avx512_vnni" in needed) == (level == "x86-64-v4")


def test_a_record_reads_back_as_it_was_written(digits: Weights) -> None:
    record = PackageRecord.model_validate(
        {
            "torch": "2.13.0",
            "cuda": None,
            "device": "cpu",
            "platform": "linux-x86_64",
            "cpu_capability": "AVX2",
            "cpu_flags": ("avx2",),
            "precision": "fp32",
            "batch": ANY,
            "frozen": True,
            "kernels": {"mm": 1},
            "inputs": ({"name": "input", "dtype": "float32", "shape": (None, 1, 8, 8)},),
            "outputs": (
                {"name": "logits", "dtype": "float32", "shape": (None, digits.config.num_classes)},
            ),
            "layers": ({"module": "fc", "op": "Gemm", "dtype": "float32"},),
        }
    )
    assert PackageRecord.model_validate_json(record.model_dump_json()) == record
