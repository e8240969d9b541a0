"""What an ONNX file asks of runtimes: its opset, the least IR version, and who runs that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from exported import export_onnx, relabeled
from resnext import check
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange
from resnext.errors import GateFailed, MissingRequirement, UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import PRECISIONS
from resnext.readers.files import file_sha256
from resnext.runtimes.ort.needed import check_taken_here, needed_by
from resnext.runtimes.ort.releases import RELEASES, oldest_release, release_named
from resnext.runtimes.registry import RUNTIMES, open_session
from resnext.weights.spec import Weights
from resnext_export import ExportRequest, export
from resnext_export.cli.export import main
from resnext_export.convert import onnx_from_torch as converter
from resnext_export.formats.base import builder_for
from resnext_export.formats.onnx_file import write_onnx
from resnext_export.store import entry_of

#: The opsets that an export offers.
OPSETS = range(18, 26)
#: Everything that an ONNX file can be, for any opset.
KINDS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "baked": {"bake_preprocessing": True},
    "one batch size": {"batch": "3"},
    "merged": {"merge_groups": 16},
    "fp16": {"precision": "fp16"},
    "fp16 native": {"precision": "fp16", "io": "native"},
    "bf16": {"precision": "bf16"},
    "int8 for ort": {"precision": "int8", "calibration": "digits"},
    "int8 for trt": {"precision": "int8", "calibration": "digits", "runtime": "trt"},
    "int8 for openvino": {"precision": "int8", "calibration": "digits", "runtime": "openvino"},
    "fp8": {"precision": "fp8", "calibration": "digits", "merge_groups": 32},
}


def versions(artifact: Artifact) -> tuple[int, int]:
    proto = onnx.load(artifact.path)
    return proto.opset_import[0].version, proto.ir_version


def tiny(opset: int = 20, ir_version: int = 9, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y")]
    weight = helper.make_tensor("w", kind, [1], [1.0])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


# ---- what is written


def test_a_file_asks_for_the_least_ir_version_of_its_opset(
    digits_artifact: Artifact, fp16_artifact: Artifact
) -> None:
    assert versions(digits_artifact) == versions(fp16_artifact) == (20, 9)


@pytest.mark.parametrize(("opset", "least"), [(18, 8), (20, 9), (22, 10), (25, 13)])
def test_whatever_made_the_graph_the_file_has_the_least_ir_version(
    tmp_path: Path, opset: int, least: int
) -> None:
    for newer in (least, 14):
        path = write_onnx(tiny(opset, newer), tmp_path)
        assert onnx.load(path).ir_version == least


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_oldest_opset_is_exported_checked_and_recorded(tmp_path: Path, precision: str) -> None:
    artifact = export("digits", tmp_path / "out", opset=18, precision=precision)
    assert versions(artifact) == (18, 8)
    assert artifact.manifest.opset == 18
    assert artifact.manifest.check is not None
    assert check(artifact, runtime="onnx-reference").passed
    assert needed_by(onnx.load(artifact.path)).onnxruntime == "1.15"


def test_an_exporter_that_writes_another_opset_is_caught(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's does so if its converter fails, with a warning and no error."""
    real = converter._export

    def as_if_unconverted(model: Any, example: Any, dynamic: object, _: int) -> onnx.ModelProto:
        return real(model, example, dynamic, 18)

    monkeypatch.setattr(converter, "_export", as_if_unconverted)
    with pytest.raises(GateFailed, match="wrote opset 18, not 25"):
        converter.onnx_from_torch(digits, BatchRange.parse("3"), opset=25)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_a_checked_file_of_every_kind(
    tmp_path: Path, opset: int, kind: str
) -> None:
    fields = KINDS[kind]
    if opset < PRECISIONS[fields.get("precision", "fp32")].least_opset:
        pytest.skip("refused, see below")
    artifact = export("digits", tmp_path / "out", opset=opset, **fields)  # with ONNX's checker
    proto = onnx.load(artifact.path)
    least = helper.find_min_ir_version_for(list(proto.opset_import))
    assert versions(artifact) == (opset, least)
    assert check(artifact, runtime="onnx-reference").passed
    for runtime in ("ort-cpu", "openvino"):
        if artifact.manifest.precision in RUNTIMES[runtime].precisions:
            assert check(artifact, runtime=runtime).passed, runtime


@pytest.mark.exhaustive
@pytest.mark.parametrize("opset", [18, 25])
def test_other_formats_are_made_from_a_graph_of_the_opset(tmp_path: Path, opset: int) -> None:
    artifact = export("digits", tmp_path / "out", format="openvino", opset=opset)
    assert artifact.manifest.opset == opset
    assert check(artifact).passed


# ---- what is requested


@pytest.mark.parametrize(
    ("runs_on", "opset"),
    [("1.15", 18), ("1.16.3", 19), ("1.17", 20), ("1.18", 20), ("1.32.0", 20)],
)
def test_a_release_lowers_the_opset_as_far_as_it_takes(runs_on: str, opset: int) -> None:
    for precision in ("fp32", "fp16", "int8"):
        request = ExportRequest(runs_on=f"onnxruntime-{runs_on}", precision=precision)
        (*_, last) = request.steps()
        assert {step.graph_opset for step in request.steps()} == {opset}, last


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"opset": 17}, "`opset` 17: Input should be greater than or equal to 18"),
        ({"opset": 26}, "`opset` 26: Input should be less than or equal to 25"),
        ({"opset": 21, "precision": "bf16"}, "bf16 needs opset 22, not 21"),
        ({"opset": 18, "precision": "fp8"}, "fp8 needs opset 19, not 18"),
        (
            {"runs_on": "onnxruntime-1.15", "precision": "fp8"},
            "no release of ONNX Runtime computes fp8 on a CPU: use `precision` fp32 or fp16",
        ),
        ({"runs_on": "onnxruntime-1.32", "precision": "bf16"}, "computes bf16 on a CPU"),
        (
            {"runs_on": "onnxruntime-1.17", "opset": 21},
            "onnxruntime-1.17 takes opset 20 of fp32 at most, not 21",
        ),
        (
            {"runs_on": "onnxruntime-1.23", "opset": 23, "precision": "int8"},
            "onnxruntime-1.23 takes opset 22 of int8 at most, not 23",
        ),
        ({"runs_on": "onnxruntime-1.17", "format": "openvino"}, "`runs_on` is about an ONNX file"),
        ({"opset": 19, "format": "pt2"}, "drop `opset`"),
        ({"opset": 19, "onnx": Path("here"), "precision": "fp16"}, "has its own opset; drop `op"),
        (
            {"runs_on": "onnxruntime-1.17", "onnx": Path("here"), "precision": "fp16"},
            "has its own opset; drop `runs_on`",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_before_the_work(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError) as refused:
        ExportRequest(**fields)
    assert reason in str(refused.value)


def test_the_precision_of_a_newer_type_takes_its_opset_and_any_above() -> None:
    for precision, opset in (("bf16", 22), ("bf16", 25), ("fp8", 19)):
        assert ExportRequest(precision=precision, opset=opset).graph_opset == opset


@pytest.mark.parametrize(
    "name", ["onnxruntime-1.14", "onnxruntime-1.99", "onnxruntime-1", "1.17", "openvino-1.17", ""]
)
def test_an_unknown_release_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownName, match=r"Known: onnxruntime-1\.15, onnxruntime-1\.16, "):
        ExportRequest(runs_on=name)


def test_the_store_tells_opsets_apart_and_not_how_they_were_requested(
    digits: Weights, tmp_path: Path
) -> None:
    def entry(**fields: Any) -> Path:
        request = ExportRequest(**fields)
        key = builder_for(request).key(request, digits)
        return entry_of(request, key, digits, tmp_path)

    assert entry() == entry(opset=20) == entry(runs_on="onnxruntime-1.17")
    assert len({entry(), entry(opset=18), entry(opset=19), entry(opset=21)}) == 4
    assert entry(opset=18) == entry(runs_on="onnxruntime-1.15")


def test_a_release_here_that_is_too_old_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "__version__", "1.23.2")
    with pytest.raises(MissingRequirement, match="takes opset 22 at most, not 23") as refused:
        export("digits", tmp_path / "out", opset=23, precision="int8")
    assert "upgrade onnxruntime" in refused.value.hint
    check_taken_here(23, quantized=False)
    monkeypatch.setattr(ort, "__version__", "9.1.0")  # newer than the table
    check_taken_here(99, quantized=True)


# ---- what a file needs


def test_newer_releases_take_no_less() -> None:
    rows = list(RELEASES.values())
    for older, newer in pairwise(rows):
        assert older.opset <= newer.opset
        assert older.quantized_opset <= newer.quantized_opset <= newer.opset
        assert older.ir_version <= newer.ir_version


def test_every_release_runs_some_opset_that_an_export_offers() -> None:
    assert {release.opset for release in RELEASES.values()} >= {18, 25}
    for release in RELEASES.values():
        for opset, quantized in ((release.opset, False), (release.quantized_opset, True)):
            assert opset >= OPSETS[0]
            ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
            assert ir_version <= release.ir_version
            found = oldest_release(opset, ir_version, quantized=quantized)
            assert found is not None
            assert list(RELEASES).index(found) <= list(RELEASES.values()).index(release)
    assert release_named("onnxruntime-1.17.3") is RELEASES["1.17"]


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (tiny(18, 8), "onnxruntime 1.15 or newer (opset 18, IR 8)"),
        (tiny(20, 9), "onnxruntime 1.17 or newer (opset 20, IR 9)"),
        (tiny(20, 10), "onnxruntime 1.18 or newer (opset 20, IR 10)"),  # its IR raised by hand
        (tiny(20, 14), "onnxruntime 1.32 or newer (opset 20, IR 14)"),
        (tiny(20, 15), "opset 20, IR 15; no known release of onnxruntime takes that"),
        (
            tiny(22, 10, TensorProto.BFLOAT16),
            "opset 22, IR 10; no release of onnxruntime computes bfloat16 on a CPU",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_files_bytes_say_which_release_runs_it(proto: onnx.ModelProto, said: str) -> None:
    assert str(needed_by(proto)) == said


def test_quantized_networks_need_a_newer_release_where_the_operators_came_later() -> None:
    proto = tiny(23, 11)
    assert needed_by(proto).onnxruntime == "1.23"
    proto.graph.node[0].op_type = "QuantizeLinear"
    assert needed_by(proto).onnxruntime == "1.24"


def test_operators_of_another_domain_are_not_vouched_for() -> None:
    proto = tiny()
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    needed = needed_by(proto)
    assert needed.onnxruntime is None
    assert "the operators of com.microsoft is not known" in needed.reason


def inspected(artifact: Artifact, *arguments: str) -> str:
    words = ["inspect", str(artifact.directory), "--no-layers", *arguments]
    result = CliRunner().invoke(main, words, prog_name="resnext-export")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect_says_the_oldest_release_that_runs_the_file(
    digits_artifact: Artifact, tmp_path: Path
) -> None:
    said = "onnxruntime 1.17 or newer (opset 20, IR 9)"
    assert f"needs      {said}\n" in inspected(digits_artifact)
    proto = onnx.load(digits_artifact.path)
    proto.ir_version = 10  # by hand; the manifest made to fit
    raised = tmp_path / "raised.onnx"
    onnx.save(proto, raised)
    copy = relabeled(digits_artifact, tmp_path / "copy")
    (copy.directory / "model.onnx").write_bytes(raised.read_bytes())
    manifest = copy.manifest.model_copy(
        update={"file_sha256": file_sha256(raised), "file_size_bytes": raised.stat().st_size}
    )
    (copy.directory / "manifest.json").write_text(manifest.to_json())
    facts = json.loads(inspected(read_artifact(copy.directory), "--json", "-"))
    assert facts["needs"] == {
        "opset": 20,
        "ir_version": 10,
        "onnxruntime": "1.18",
        "reason": "",
    }


# ---- the table, proven

RUN = """
import sys
import numpy as np
import onnxruntime as ort

for path in sys.argv[2:]:
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as exc:
        print("refused", path, str(exc).splitlines()[0])
        continue
    logits = session.run(None, {session.get_inputs()[0].name: np.load(sys.argv[1])})[0]
    np.save(path + ".npy", logits.astype(np.float32))
    print("ran", path)
print("version", ort.__version__)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter of a new environment with one release of ONNX Runtime."""

    def make(release: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / release
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        numpy = "numpy<2" if release < "1.19" else "numpy"
        wanted = [f"onnxruntime=={release}.*", numpy]
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            *wanted,
        ]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{wanted[0]} cannot be installed here: {done.stderr.strip()[-200:]}")
        return python

    return make


@pytest.mark.exhaustive
@pytest.mark.parametrize("release", [next(iter(RELEASES)), list(RELEASES)[-1]])
def test_the_oldest_and_the_newest_release_run_what_was_made_for_them(
    environment: Callable[[str], Path], digits: Weights, tmp_path: Path, release: str
) -> None:
    runs_on = f"onnxruntime-{release}"
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, 7))
    np.save(tmp_path / "images.npy", images)
    made, refused = {}, []
    for precision in ("fp32", "fp16", "int8"):
        folder = tmp_path / precision
        made[precision] = export("digits", folder, precision=precision, runs_on=runs_on)
        highest = release_named(runs_on)
        above = (highest.quantized_opset if precision == "int8" else highest.opset) + 1
        if above in OPSETS:
            folder = tmp_path / f"{precision}-newer"
            newer = export("digits", folder, opset=above, precision=precision)
            refused.append(str(newer.path))
    newest = export_onnx(digits, tmp_path / "ir")
    proto = onnx.load(newest.path)
    proto.ir_version = release_named(runs_on).ir_version + 1
    onnx.save(proto, newest.path)
    refused.append(str(newest.path))
    python = environment(release)
    paths = [str(artifact.path) for artifact in made.values()]
    words = [str(python), "-c", RUN, str(tmp_path / "images.npy"), *paths, *refused]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"version {release}.")
    assert [line.split(maxsplit=2)[:2] for line in lines[:-1]] == [
        *(["ran", path] for path in paths),
        *(["refused", path] for path in refused),
    ]
    for precision, artifact in made.items():
        with open_session(artifact, "ort-cpu") as session:
            ours = session.run({"input": images.astype(np.float32)})["logits"]
        theirs = np.load(f"{artifact.path}.npy")
        allowed = PRECISIONS[artifact.manifest.precision].gate.max_error
        error = np.abs(theirs - ours).max() / np.sqrt(np.square(ours).mean())
        assert error <= allowed / 2, precision
