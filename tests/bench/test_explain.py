"""`resnext-export explain`: what weights predict, what was measured before, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from exported import export_onnx
from fakes.here import HERE
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import Manifest, MergeRecord, WeightsRecord
from resnext.errors import GateFailed
from resnext.images.synthetic import seeded_pixels
from resnext.machine.environment import Environment
from resnext.machine.machine import this_machine
from resnext.network.config import VARIANTS
from resnext.network.forms import fold_batch_norms
from resnext.network.layers import layers
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_bench.explain import explanation, past, values
from resnext_bench.explain.facts import Facts, Seen, Timed
from resnext_bench.explain.past import made, merged_in, proven, timed_here, told
from resnext_bench.explain.search import searched
from resnext_bench.explain.values import activations, telling, values_of, vanishing
from resnext_bench.record import Row
from resnext_bench.result import Run
from resnext_bench.stats import timing_of
from resnext_bench.tune.record import CandidateRecord, TuneRecord
from resnext_export import left_by_fp8
from resnext_export.calibration.activations import activation_ranges
from resnext_export.cli.export import main
from resnext_export.passes.base import run_pass
from resnext_export.passes.lower import Lower
from resnext_export.passes.quantize_fp8 import skipped_by_fp8

EARLIER = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"
TINY = EARLIER / "tiny.safetensors"
SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "explain-1.json"


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


def changed(weights: Weights, name: str, factor: float, at: Any = ...) -> Weights:
    """The same weights with one tensor, or a part of it, multiplied."""
    tensor = weights.state_dict[name].clone()
    tensor[at] *= factor
    return replace(weights, state_dict={**weights.state_dict, name: tensor})


# ---- what weights predict


def test_sound_weights_predict_no_trouble(digits: Weights) -> None:
    found = values_of(digits)
    assert found.refused == {}
    assert found.largest is not None
    assert 1 < found.largest[1] < 1000
    assert all(share < 0.2 for _, share in found.vanishing.values())


def test_a_folded_weight_beyond_fp16_is_named_with_its_layer(digits: Weights) -> None:
    # Each is in range by itself; the batch norm that an export folds into it is not.
    planted = changed(changed(digits, "conv1.weight", 3e3), "bn1.weight", 1e6)
    assert float(planted.state_dict["conv1.weight"].abs().max()) < 65504
    found = values_of(changed(planted, "bn1.running_var", 9e6))
    assert list(found.refused) == ["fp16"]
    assert found.refused["fp16"].startswith("conv1: the largest value of 'conv1.")
    assert "is beyond fp16's 65504; use bf16 or fp32" in found.refused["fp16"]


def test_weights_below_fp16s_subnormals_are_named_with_their_layer(digits: Weights) -> None:
    found = values_of(changed(digits, "layer2.0.bn2.weight", 1e-8))
    assert list(found.refused) == ["fp16"]
    assert found.refused["fp16"].startswith("layer2.0.conv2: ")
    assert "turns to zero or subnormal in fp16" in found.refused["fp16"]


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("layer1.0.bn3.weight", "layer1.0.conv3"),
        ("layer3.0.bn1.weight", "layer3.0.conv1"),
        ("fc.weight", "fc"),
    ],
)
def test_the_first_activation_beyond_fp16_is_named(
    digits: Weights, tensor: str, layer: str
) -> None:
    planted = values_of(changed(digits, tensor, 1e7)).largest
    assert planted is not None
    assert planted[0] == layer
    assert planted[1] > 65504


def test_every_layer_and_every_sum_is_seen_in_order(digits: Weights) -> None:
    seen = activations(fold_batch_norms(load_model(digits)), digits)
    assert list(seen)[:6] == [
        "conv1",
        "layer1.0.downsample.0",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.conv3",
        "the sum of layer1.0",
    ]
    assert len(seen) == len(list(layers(digits.config))) + 3
    assert seen["the sum of layer1.0"] not in (seen["layer1.0.conv1"], seen["layer1.0.conv2"])


def test_no_number_is_blamed_on_the_layer_that_makes_it() -> None:
    nan, infinite = float("nan"), float("inf")
    assert telling({"a": 1.0, "b": infinite, "c": nan}) == ("b", infinite)
    assert telling({"a": 1.0, "b": nan, "c": 7e4})[0] == "b"
    assert telling({"a": 1.0, "b": 2.0}) == ("b", 2.0)


@pytest.mark.parametrize(
    ("outlier", "grid", "expected"),
    [
        (1.0, "int8", 0.0),
        (100.0, "int8", 0.0),
        (300.0, "int8", 14 / 16),  # a step is more than twice each of the others
        (100.0, "int8 in 7 bits", 0.0),
        (150.0, "int8 in 7 bits", 14 / 16),
        (300.0, "fp8", 0.0),
        (1e8, "fp8", 14 / 16),
    ],
)
def test_weights_beside_an_outlier_round_to_zero(
    outlier: float, grid: str, expected: float
) -> None:
    weight = np.ones((2, 8, 1, 1), np.float32)
    weight[0, 0] = outlier
    weight[1, 0] = outlier
    tensors = {"even.weight": np.ones((2, 8, 1, 1), np.float32), "odd.weight": weight}
    name, share = vanishing(tensors)[grid]
    assert share == expected
    assert name == ("odd" if expected else "")


@pytest.mark.exhaustive
def test_the_predictions_are_what_an_export_finds(digits: Weights, tmp_path: Path) -> None:
    planted = changed(digits, "bn1.weight", 1e7)
    proto = onnx.load(export_onnx(planted, tmp_path / "planted", check=False).path)
    with pytest.raises(GateFailed) as refused:
        run_pass(Lower("fp16"), proto)
    assert values_of(planted).refused["fp16"] == str(refused.value)
    artifact = export_onnx(digits, tmp_path / "sound", check=False)
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, values.IMAGES))
    ranges = activation_ranges(artifact.path, images)
    found = values_of(digits).largest
    assert found is not None
    assert found[1] == pytest.approx(max(each.largest for each in ranges), rel=1e-4)
    proto = onnx.load(artifact.path)
    assert left_by_fp8(layers(digits.config)) == skipped_by_fp8(proto)


# ---- what was measured before


def row(precision: str, ms: float, variant: str = "", **facts: Any) -> Row:
    times = [[round(ms * 1e6) + index] * 3 for index in range(8)]
    timings = (timing_of("host", times, 8),)
    fields = {"backend": "openvino", "batch": 8, "status": "valid", "timings": timings}
    return Row(**{**fields, "precision": precision, "variant": variant, **facts})


def kept(folder: Path, *rows: Row, **facts: Any) -> Path:
    run = Run(
        **{
            "created": "2026-11-23T00:00:00+00:00",
            "model": "resnext50_32x4d",
            "weights": WeightsRecord(source="seeded", sha256="a" * 64),
            "precision": "fp32",
            "duration_s": 1.0,
            "rounds": 8,
            "seed": 0,
            "threads": 2,
            "environment": HERE,
            **facts,
        },
        rows=rows,
    )
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(run.model_dump_json())
    return folder


ROWS = (row("fp32", 40.0), row("int8", 10.0), row("int8", 8.0, "int8 merged 32"))


def test_rows_of_kept_runs_of_this_network_and_machine_are_found(tmp_path: Path) -> None:
    folder = kept(tmp_path / "runs", *ROWS, row("bf16", 1.0, status="invalid"))
    found = timed_here(HERE, "resnext50_32x4d", folder, pytest.fail)
    assert [(each.precision, each.merged, round(each.median_ns / 1e6)) for each in found] == [
        ("fp32", False, 40),
        ("int8", False, 10),
        ("int8", True, 8),
    ]
    assert {(each.run, each.created, each.batch) for each in found} == {
        ("run.json", "2026-11-23", 8)
    }


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("resnet50", {}),
        ("resnext50_32x4d", {"cpu": "another CPU"}),
        ("resnext50_32x4d", {"physical_cores": 64}),
        (None, {}),
    ],
)
def test_rows_of_other_networks_and_machines_are_not(
    tmp_path: Path, model: str | None, changes: dict[str, Any]
) -> None:
    folder = kept(tmp_path / "runs", *ROWS)
    notes: list[str] = []
    assert timed_here(HERE.model_copy(update=changes), model, folder, notes.append) == ()
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("rows", "broken", "contents"),
    [
        (None, 0, "stored runs: 0, rows that are not valid: 0, broken files: 0"),
        (None, 2, "stored runs: 0, rows that are not valid: 0, broken files: 2"),
        (row("bf16", 1.0, status="invalid"), 0, "stored runs: 1, rows that are not valid: 1, "),
    ],
)
def test_a_folder_without_a_time_is_said_to_be_so(
    tmp_path: Path, rows: Row | None, broken: int, contents: str
) -> None:
    for index in range(broken):
        (tmp_path / f"{index}.json").write_text("no JSON")
    if rows is not None:
        kept(tmp_path, rows)
    notes: list[str] = []
    assert timed_here(HERE, "resnext50_32x4d", tmp_path, notes.append) == ()
    (line,) = notes
    assert f"has no time of resnext50_32x4d on this machine: {contents}" in line


@pytest.mark.parametrize(
    ("asked", "backends"),
    [(None, ["openvino", "ort-cpu"]), ({"ort-cpu"}, ["ort-cpu"]), ({"torch"}, [])],
)
def test_rows_of_runtimes_that_were_not_asked_about_do_not_count(
    tmp_path: Path, asked: set[str] | None, backends: list[str]
) -> None:
    folder = kept(tmp_path, row("int8", 10.0), row("int8", 20.0, backend="ort-cpu"))
    notes: list[str] = []
    config = VARIANTS["resnext50_32x4d"]
    facts = explanation._with_past(
        Facts(config), explanation.Subject(config), HERE, asked, folder, notes.append
    )
    assert [each.backend for each in facts.timed] == backends
    assert notes == ([] if backends else [f"{folder} has times of other runtimes only"])


def test_a_folder_whose_history_was_read_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    assert timed_here(HERE, "resnext50_32x4d", None, pytest.fail) == ()
    folder = kept(tmp_path / "runs", *ROWS)
    first = timed_here(HERE, "resnext50_32x4d", folder, pytest.fail)
    assert timed_here(HERE, "resnext50_32x4d", None, pytest.fail) == first
    (index,) = (tmp_path / "cache" / "history").iterdir()
    index.write_bytes(b"no index")
    notes: list[str] = []
    assert timed_here(HERE, "resnext50_32x4d", None, notes.append) == ()
    assert "is made again from the files" in notes[0]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("", False),
        ("int8", False),
        ("merged 32", True),
        ("int8 merged auto", True),
        ("my-merged-net", None),
        ("int8-ort", None),
    ],
)
def test_a_name_that_a_benchmark_gave_says_whether_groups_are_merged(
    variant: str, expected: bool | None
) -> None:
    assert merged_in(variant) is expected


def candidate(name: str, precision: str, outcome: str, **facts: Any) -> CandidateRecord:
    fields = {
        "name": name,
        "backend": "openvino",
        "precision": precision,
        "batch": 8,
        "threads": 2,
        "outcome": outcome,
        "artifact_sha256": None if outcome == "refused" else "c" * 64,
    }
    return CandidateRecord(**{**fields, **facts})


def search(folder: Path, *candidates: CandidateRecord, **facts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    record = TuneRecord(
        **{
            "created": "2026-11-25T00:00:00+00:00",
            "model": "resnext50_32x4d",
            "weights": WeightsRecord(source="seeded", sha256="a" * 64),
            "goal": "latency",
            "spent_s": 1.0,
            "seed": 0,
            "threads": 2,
            "margin": 0.02,
            "environment": HERE,
            "complete": True,
            "candidates": candidates,
            **facts,
        }
    )
    (folder / "tune.json").write_text(record.model_dump_json())
    return folder


SIX = dict.fromkeys(range(6), (1,))


def chosen(folder: Path, sha256: str = "c" * 64) -> Artifact:
    """An artifact in ``folder``."""
    return Artifact(folder, manifest("onnx-fp32", file_sha256=sha256))


def test_what_a_search_timed_and_what_fell_in_it_is_found(tmp_path: Path) -> None:
    folder = search(
        tmp_path / "best",
        candidate("a", "int8", "picked", p50_ns=1e7, merge_groups=32, rounds_ns=SIX, streams=2),
        candidate("b", "fp32", "slower", p50_ns=4e7, rounds_ns=SIX),
        candidate("e", "int8", "slower", p50_ns=9e7, rounds_ns={0: (9,), 1: (9,)}),  # no interval
        candidate("f", "fp8", "refused", reason="no images were named"),
        candidate("c", "bf16", "gate", reason="agreement 0.90, at least 0.98 was asked for"),
        candidate("d", "int8", "failed", reason="no"),
    )
    times, fallen = searched(chosen(folder), HERE, None, pytest.fail)
    assert times == (
        Timed("tune.json", "2026-11-25", "openvino", "int8", True, 8, 1e7, streams=2),
        Timed("tune.json", "2026-11-25", "openvino", "fp32", False, 8, 4e7),
    )
    text = "In a search no candidate passed; c: agreement 0.90, at least 0.98 was asked for."
    refused = "In a search every candidate was refused; f: no images were named."
    assert fallen == (
        Seen("fp8", refused, "2026-11-25", "tune.json", source="known"),  # nothing was measured
        Seen("bf16", text, "2026-11-25", "tune.json", "no use"),
    )
    assert searched(chosen(folder), HERE, {"ort-cpu"}, pytest.fail) == ((), ())
    search(
        folder, candidate("a", "int8", "picked", rounds_ns=SIX, p50_ns=1e7), visits=8, disturbed=7
    )
    ((row,), _) = searched(chosen(folder), HERE, None, pytest.fail)
    assert "7 of 8 visits" in row.doubt


ELSEWHERE = HERE.model_copy(update={"cpu": "another CPU"})


@pytest.mark.parametrize(
    ("content", "sha256", "problem"),
    [
        ("{}", "c" * 64, "cannot be used"),
        ("nonsense", "c" * 64, "cannot be used"),
        (None, "c" * 64, "is of another machine"),
        (HERE, "d" * 64, "is of another artifact"),
    ],
)
def test_a_search_that_cannot_be_used_is_a_remark(
    tmp_path: Path, content: str | Environment | None, sha256: str, problem: str
) -> None:
    machine = content if isinstance(content, Environment) else ELSEWHERE
    folder = search(tmp_path, candidate("b", "fp32", "slower", p50_ns=4e7), environment=machine)
    if isinstance(content, str):
        (folder / "tune.json").write_text(content)
    notes: list[str] = []
    assert searched(chosen(folder, sha256), HERE, None, notes.append) == ((), ())
    assert problem in notes[0]


def manifest(name: str, **changes: Any) -> Manifest:
    return read_artifact(EARLIER / name).manifest.model_copy(update=changes)


def test_a_manifest_tells_what_its_export_found() -> None:
    (said,) = told(manifest("onnx-fp16"))
    assert (said.topic, said.where) == ("fp16", "the manifest of an export to onnx")
    assert "max error 1.9e-03 of the logits' RMS on ort-cpu, 0.62 times the error" in said.text
    assert "largest activation 4.74 (fc)" in said.text
    assert list(told(manifest("onnx-fp32"))) == []
    merged = MergeRecord(groups={"a": 2}, max_error=0.0, runtime="ort", batch=8, speedup=1.44)
    (said,) = told(manifest("onnx-fp32", merged=merged))
    assert said.topic == "merged groups"
    assert said.text == (
        "On the machine that made it, merging, timed on ort at fp32, batch 8: 1.44 times as fast."
    )
    assert (said.source, said.outlook, said.batch) == ("known", None, 8)
    assert list(told(manifest("onnx-fp32", merged=merged), {"openvino"})) == []
    assert list(told(manifest("onnx-fp32", merged=merged), {"ort-cpu"})) == [said]
    none = merged.model_copy(update={"groups": {}, "speedup": None})
    (said,) = told(manifest("onnx-fp32", merged=none))
    assert said.text.endswith("no width was faster.")
    assert said.outlook is None


def test_exports_of_these_weights_in_the_cache_are_found_unless_they_were_altered(
    tmp_path: Path,
) -> None:
    from resnext_export.store import _write_digest

    entry = Path(shutil.copytree(EARLIER / "onnx-fp16", tmp_path / "onnx" / "a1"))
    artifact = read_artifact(entry)
    sha256, config = artifact.manifest.weights.sha256, artifact.manifest.network
    assert list(made(sha256, config, None, tmp_path)) == []  # nobody says that it is the store's
    _write_digest(entry, artifact)
    assert [each.topic for each in made(sha256, config, None, tmp_path)] == ["fp16"]
    assert list(made("0" * 64, config, None, tmp_path)) == []
    assert list(made(None, config, None, tmp_path)) == []
    assert list(made(sha256, replace(config, input_size=(224, 224)), None, tmp_path)) == []
    text = (entry / "manifest.json").read_text()
    (entry / "manifest.json").write_text(text.replace("4.743", "1.743"))
    assert list(made(sha256, config, None, tmp_path)) == []


def test_the_verdict_beside_an_artifact_is_told_if_it_is_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = read_artifact(Path(shutil.copytree(EARLIER / "onnx-fp16", tmp_path / "a")))
    assert list(proven(artifact, HERE)) == []
    (artifact.directory / "verdict.json").write_text("{}")
    (said,) = proven(artifact, HERE)
    assert said.text.startswith("The verdict is not to be used: ")
    assert (said.outlook, said.source) == (None, "known")
    verdict = SimpleNamespace(
        runtime="ort-cpu",
        capability="linux avx512_vnni",
        parity=SimpleNamespace(max_error=1e-3),
        timing=SimpleNamespace(median_ns=2_500_000, batch=8),
        created="2026-11-26T00:00:00+00:00",
        environment=HERE,
    )
    monkeypatch.setattr(past, "read_verdict", lambda _: verdict)
    monkeypatch.setattr(past, "check_binding", lambda *_: None)
    (said,) = proven(artifact, HERE)
    passed = (
        "This artifact passed on ort-cpu (linux avx512_vnni), max error 1.0e-03 of the logits'"
        " RMS, 2.5 ms at batch 8"
    )
    assert (said.text, said.source) == (f"{passed}.", "measured")
    (said,) = proven(artifact, ELSEWHERE)
    assert said.text == f"{passed}, on another machine: {HERE.title()}."
    assert said.source == "known"
    assert list(proven(artifact, HERE, {"openvino"})) == []

    def refuse(*_: Any) -> None:
        raise GateFailed("it did not")

    monkeypatch.setattr(past, "check_binding", refuse)
    (said,) = proven(artifact, HERE)
    assert (said.outlook, said.text) == ("no use", "The verdict did not pass: it did not.")
    (said,) = proven(artifact, ELSEWHERE)
    assert (said.outlook, said.source) == (None, "known")


# ---- the command


def explain(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        main, ["explain", *map(str, arguments)], prog_name="resnext-export", env={"COLUMNS": "100"}
    )


def topics(*arguments: str | Path) -> dict[str, Any]:
    done = explain(*arguments, "--json", "-")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    return {topic["topic"]: topic for topic in record.pop("topics")} | {"record": record}


def test_a_checkpoint_is_explained_with_what_its_weights_predict(
    digits: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_weights(changed(digits, "bn1.weight", 1e7), path)
    found = topics(path, "--backend", "torch,openvino")
    assert found["fp16"]["outlook"] == "cannot"
    assert "The export would refuse: conv1: " in found["fp16"]["sentences"][0]["text"]
    assert found["fp32"]["outlook"] == "baseline"
    assert found["record"]["backends"] == {"torch": "", "openvino": ""}
    assert found["record"]["model"] == "resnext11_8x4d_digits"


def test_an_artifact_is_explained_with_what_is_proven_of_it() -> None:
    found = topics(EARLIER / "onnx-fp16", "--backend", "ort-cpu")
    assert found["fp16"]["sentences"][-1]["text"].startswith("An export of these weights: ")
    assert any("/checkpoints/tiny.safetensors" in line for line in found["record"]["notes"])
    known = topics(EARLIER / "onnx-fp16" / "model.onnx", "--backend", "ort-cpu", "--weights", TINY)
    assert not any("tiny.safetensors" in line for line in known["record"]["notes"])


def test_a_variant_is_explained_for_another_machines_gpu() -> None:
    found = topics("resnext50_32x4d", "--target", "sm_90")
    assert found["record"]["target"] == "sm_90"
    assert [line for line in found["record"]["notes"] if "no target sm_90" in line]
    assert found["fp8"]["outlook"] == "try"
    older = topics("resnext50_32x4d", "--target", "sm_80", "--history", "none")
    assert any("`history` is not used" in line for line in older["record"]["notes"])
    assert older["fp8"]["outlook"] == "cannot"
    assert "a GPU of sm_80 does not compute in it" in older["fp8"]["sentences"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ("digits", "--backend", "openvino,trt"),
            "resnext-bench --backend openvino --batch 8 --weights digits --precision fp32,",
        ),
        (
            ("resnet50", "--batch", "1", "--backend", "openvino"),
            "resnext-bench --backend openvino --batch 1 --model resnet50 --precision fp32,",
        ),
        (("resnet50", "--backend", "openvino"), "int8 --calibration FOLDER"),
        (("resnext50_32x4d", "--backend", "ort-cpu"), "--merge-groups off,32"),
    ],
)
def test_the_last_line_measures_what_is_worth_a_try(
    arguments: tuple[str, ...], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "cpu_features", lambda: frozenset({"avx2", "avx512_vnni"}))
    *_, last = explain(*arguments).stdout.split("to measure it: ")
    assert command in " ".join(last.split())
    assert ("--calibration" in last) == ("digits" not in arguments)


def test_nothing_is_to_be_measured_where_nothing_runs() -> None:
    done = explain("digits", "--target", "sm_89")
    assert "to measure it" not in done.stdout
    if this_machine().driver.problem is not None:
        done = explain("digits", "--backend", "trt-rtx")
        assert "to measure it" not in done.stdout
        assert "name another machine's GPU in --target" in " ".join(done.stdout.split())


def test_a_narrow_screen_cuts_no_sentence() -> None:
    done = CliRunner().invoke(
        main, ["explain", "resnext50_32x4d", "--target", "sm_89"], env={"COLUMNS": "60"}
    )
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "--merge-groups 32" in done.stdout
    assert "--on-refusal" in " ".join(done.stdout.split())
    assert "fp8: worth a try" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("digits", "--weights", "digits"), 2, "digits says what the weights are; drop --weights"),
        ((EARLIER / "onnx-fp32", "--model", "resnet50"), 2, "an artifact has its own model; drop"),
        ((EARLIER / "onnx-fp32", "--weights", "seeded:7"), 4, "are not those that"),
        (("digits", "--backend", "torch", "--history", "none"), 4, "cannot read none"),
        (("./nope/",), 4, "no weights file at nope; check the path, which stands for"),
        (("resnext50_32x4",), 2, "did you mean 'resnext50_32x4d'? Known: resnet50, "),
        (("digits", "--target", "sm_70"), 2, "--target sm_70 is no GPU that TensorRT 10 or 11"),
    ],
)
def test_what_does_not_go_together_is_an_error(
    arguments: tuple[str | Path, ...], code: int, message: str
) -> None:
    done = explain(*arguments)
    assert message in done.stderr
    assert done.exit_code == code


def test_an_onnx_file_from_elsewhere_has_no_network_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    shutil.copy(EARLIER / "onnx-fp32" / "model.onnx", path)
    done = explain(path)
    assert done.exit_code == 2
    assert "nothing says which network net.onnx is: it has no manifest, or that of" in done.stderr


def test_a_checkpoint_beside_an_artifact_is_no_artifact(digits: Weights, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "onnx-fp16", tmp_path / "a"))
    save_weights(digits, tmp_path / "checkpoint.safetensors")
    shutil.copy(tmp_path / "checkpoint.safetensors", folder / "checkpoint.bin")
    found = topics(folder / "checkpoint.bin", "--backend", "torch")
    assert found["record"]["model"] == "resnext11_8x4d_digits"


@pytest.mark.parametrize("name", ["digits", "resnet50"])
def test_a_known_name_is_that_whatever_lies_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    found = topics(name, "--backend", "torch")
    assert any(line.endswith(f"write ./{name}") for line in found["record"]["notes"])


def test_the_weights_are_left_as_they_are(digits: Weights) -> None:
    before = {name: tensor.clone() for name, tensor in digits.state_dict.items()}
    values_of(digits)
    assert all(torch.equal(tensor, digits.state_dict[name]) for name, tensor in before.items())
