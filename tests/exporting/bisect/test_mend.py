"""Bad blocks are found, named and kept: planted into weights, and in a search with fakes."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from fakes.bad_blocks import (
    cancelling_classifier,
    huge_range,
    outlier,
    scaled_channel,
    tiny_channels,
)
from fakes.foreign import mobile, write
from resnext.artifact.files import Artifact, read_artifact
from resnext.cli.parity import main as parity
from resnext.errors import GateFailed, MissingRequirement, UsageError
from resnext.readers.files import file_sha256
from resnext.verify.check import check
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import Weights
from resnext_export import export
from resnext_export.bisect import mend
from resnext_export.bisect.damage import relative_error
from resnext_export.bisect.mend import _Search, bisect
from resnext_export.bisect.price import ROUNDS, price_of
from resnext_export.bisect.record import Attempt, Bisection, Damage, read_bisection
from resnext_export.bisect.report import headline, report
from resnext_export.bisect.workshop import Workshop
from resnext_export.cli.export import main as export_main
from resnext_export.command import export_command
from resnext_export.request import ExportRequest

ORT: dict[str, Any] = {"precision": "int8"}
TRT, OPENVINO = {**ORT, "runtime": "trt"}, {**ORT, "format": "openvino"}
AFTER = ("layer2.0.conv1", "layer2.0.downsample.0")


def huge(weights: Weights) -> Weights:
    return huge_range(weights, "layer2.0.conv1", "layer1.0")


def outlier_inside(weights: Weights) -> Weights:
    return outlier(weights, "layer2.0.bn1", ("layer2.0.conv2",))


def outlier_between(weights: Weights) -> Weights:
    return outlier(weights, "layer1.0.bn3", AFTER)


def outlier_of_the_stem(weights: Weights) -> Weights:
    return outlier(weights, "bn1", ("layer1.0.conv1", "layer1.0.downsample.0"))


def tiny(weights: Weights) -> Weights:
    return tiny_channels(weights, "layer2.0")


def two(weights: Weights) -> Weights:
    return tiny_channels(huge_range(weights, "layer3.0.conv1", "layer2.0"), "layer1.0")


def classifier(weights: Weights) -> Weights:
    return cancelling_classifier(weights, "layer3.0")


#: Each plant, the form of the artifact, and the blocks that must be found. A tensor between two
#: blocks is quantized for either, in a scheme for processors.
PLANTS: list[tuple[Callable[[Weights], Weights], dict[str, Any], set[str]]] = [
    (huge, TRT, {"layer2.0"}),
    (outlier_inside, TRT, {"layer2.0"}),
    (outlier_between, TRT, {"layer2.0"}),
    (outlier_of_the_stem, TRT, {"layer1.0"}),
    (tiny, TRT, {"layer2.0"}),
    (two, TRT, {"layer1.0", "layer3.0"}),
    (huge, ORT, {"layer2.0"}),
    (outlier_inside, ORT, {"layer2.0"}),
    (outlier_between, ORT, {"layer1.0", "layer2.0"}),
    (outlier_of_the_stem, ORT, {"conv1", "layer1.0"}),
    (tiny, ORT, {"layer2.0"}),
    (two, ORT, {"layer1.0", "layer3.0"}),
    (huge, OPENVINO, {"layer2.0"}),
    (outlier_between, OPENVINO, {"layer1.0", "layer2.0"}),
    (tiny, OPENVINO, {"layer2.0"}),
    (classifier, {"precision": "fp16"}, {"fc"}),
]


@pytest.fixture(autouse=True)
def _cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mend, "measured_price", lambda *_: None)


@pytest.fixture
def islands_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mend that is free: some plants are what those are made for."""
    monkeypatch.setattr(mend, "FREE", ())


def planted(weights: Weights, folder: Path, **fields: Any) -> Artifact:
    file = folder / "weights.safetensors"
    save_weights(weights, file)
    if fields["precision"] == "int8":
        fields = {"calibration": "digits", "calibration_images": 64, **fields}
    return export(str(file), folder / "artifact", check=False, **fields)


def names(case: Any) -> str:
    if callable(case):
        return str(getattr(case, "__name__", case))
    return "-".join(map(str, case.values())) if isinstance(case, dict) else ""


@pytest.mark.exhaustive  # the command's own test has one of them in every run
@pytest.mark.usefixtures("untimed", "islands_only")
@pytest.mark.parametrize(("plant", "form", "bad"), PLANTS, ids=names)
def test_a_planted_fault_is_named_and_mended(
    plant: Callable[[Weights], Weights],
    form: dict[str, Any],
    bad: set[str],
    digits: Weights,
    tmp_path: Path,
) -> None:
    artifact = planted(plant(digits), tmp_path, **form)
    runtime = "onnx-reference" if form is TRT else None
    how: dict[str, Any] = {"images": 56, "images_from": "digits", "runtime": runtime}
    found = bisect(artifact, agreement=0.98, output=tmp_path / "mended", **how)
    assert found.outcome == "mended"
    assert set(found.keep) == bad
    # Those that it keeps lose more alone than any other.
    ranked = [each.block for each in found.damage]
    assert set(ranked[: len(bad)]) == bad
    errors = [each.error or math.inf for each in found.damage]
    assert errors[0] > 10 * errors[len(bad)]
    mended = read_artifact(tmp_path / "mended")
    assert mended.manifest.file_sha256 == found.mended_sha256
    outcome = check(mended, **how)
    assert outcome.passed
    assert outcome.top1 is not None
    assert outcome.top1 >= 0.98
    # What it prints makes the same file.
    again = shlex.split(found.command.replace(str(tmp_path / "mended"), str(tmp_path / "again")))
    done = CliRunner().invoke(export_main, again[1:])
    assert done.exit_code == 0, done.stderr
    assert read_artifact(tmp_path / "again").manifest.file_sha256 == found.mended_sha256
    assert f"--keep-fp32 {','.join(found.keep)}" in found.command
    assert mended.manifest.request == ExportRequest(**mended.manifest.request or {}).record()


@pytest.mark.parametrize(
    ("plant", "form"),
    [
        pytest.param(tiny, TRT, marks=pytest.mark.exhaustive),
        pytest.param(tiny, ORT, marks=pytest.mark.exhaustive),
        pytest.param(tiny, OPENVINO, marks=pytest.mark.exhaustive),
    ],
    ids=names,
)
@pytest.mark.usefixtures("untimed")
def test_channels_that_equalizing_evens_out_are_mended_without_a_price(
    plant: Callable[[Weights], Weights], form: dict[str, Any], digits: Weights, tmp_path: Path
) -> None:
    artifact = planted(plant(digits), tmp_path, **form)
    runtime = "onnx-reference" if form is TRT else None
    found = bisect(artifact, agreement=0.98, images=56, images_from="digits", runtime=runtime)
    assert (found.outcome, found.keep, found.changes) == ("mended", (), ("equalize",))
    assert "--equalize" in found.command
    assert found.damage == ()


# ---- the steps, with an artifact and builds that are fakes


class Shop:
    """Builds names in place of artifacts; they meet the gate with enough of the bad blocks.

    Attributes:
        bad: blocks that are needed.
        eased: those of them that are not if a free change is made.
        good: changes that mend everything; ``original`` and ``fp32``.
    """

    eased: frozenset[str] = frozenset()

    def __init__(self, blocks: int, bad: set[str], **good: bool) -> None:
        self.blocks = [f"layer{index}.0" for index in range(blocks)]
        self.macs_share = dict.fromkeys(self.blocks, 1 / blocks)
        self.bad, self.good = bad, good
        self.request = SimpleNamespace(equalize=False, correct_bias=False, refused=False)
        self.built: list[Any] = []

    def float_request(self) -> str:
        return "float"

    def changed(self, keep: tuple[str, ...], **changes: bool) -> Any:
        return (keep, tuple(changes))

    def build(self, request: Any) -> Any:
        self.built.append(request)
        if request == ((), ("refused",)):
            raise GateFailed("it is not the same function")
        return SimpleNamespace(made=request, manifest=SimpleNamespace(file_sha256="a" * 64))

    def judge(
        self, artifact: Any, keep: tuple[str, ...] = (), changes: tuple[str, ...] = ()
    ) -> tuple[Attempt, Any]:
        if changes == ("fp32",):
            passed = self.good.get("fp32", True)
        elif "made" not in vars(artifact):
            passed = self.good.get("original", False)
        else:
            needed = self.bad - self.eased if changes else self.bad
            passed = needed <= set(keep) or any(self.good.get(name) for name in changes)
        error = 1.0 if self.eased else 1.0 - 0.1 * len(changes)
        failures = () if passed else ("it is off",)
        attempt = Attempt(
            keep=keep,
            changes=changes,
            passed=passed,
            failures=failures,
            mean_error=error,
            top1=0.5,
            artifact_sha256="a" * 64,
        )
        return attempt, None


def searched(shop: Shop, monkeypatch: pytest.MonkeyPatch, *free: str) -> tuple[Any, str, list[str]]:
    """The search, its end, and what it said."""
    monkeypatch.setattr(mend, "FREE", free)
    said: list[str] = []
    same = SimpleNamespace(engine=None, quantized=True, file_sha256="a" * 64)
    search = _Search(SimpleNamespace(manifest=same), shop, shop.judge, said.append)  # type: ignore[arg-type]

    def measured() -> None:
        search.damage = {name: 9.0 if name in shop.bad else 0.01 for name in shop.blocks}

    monkeypatch.setattr(search, "_measure", measured)
    ended, _ = search.run()
    return search, ended, said


@pytest.mark.parametrize("blocks", [16, 33])
@pytest.mark.parametrize("bad", [1, 2, 5])
def test_a_search_takes_about_log2_builds(
    blocks: int, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(blocks, {f"layer{3 * index}.0" for index in range(bad)})
    search, ended, said = searched(shop, monkeypatch)
    assert (ended, set(search.keep)) == ("mended", shop.bad)
    islands = [request for request in shop.built if request != "float"]
    # The last four are tries to keep fewer.
    assert len(islands) - 1 <= 1 + math.ceil(math.log2(blocks)) + min(4, bad - 1)
    assert len(said) == len(search.attempts) + 1


def test_what_meets_its_gate_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(16, {"layer0.0"}, original=True)
    search, ended, _ = searched(shop, monkeypatch)
    assert (ended, shop.built, search.mended) == ("passes", [], None)


def test_a_fault_that_float_has_too_is_not_searched_by_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop(16, {"layer0.0"}, fp32=False)
    _, ended, said = searched(shop, monkeypatch)
    assert (ended, shop.built) == ("elsewhere", [shop.request, "float"])
    assert said[-1] == "build 1 (fp32, 0 s) misses: it is off"


def test_a_gate_that_only_float_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(16, {"nowhere"})
    search, ended, _ = searched(shop, monkeypatch)
    assert (ended, search.mended) == ("float-only", None)


def test_free_mends_come_first_and_stay_if_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(16, {"layer3.0"}, correct_bias=True)
    search, ended, _ = searched(shop, monkeypatch, "equalize", "correct_bias")
    assert (ended, search.keep, search.changes) == ("mended", (), ("equalize", "correct_bias"))
    shop = Shop(16, {"layer3.0"})
    search, ended, _ = searched(shop, monkeypatch, "equalize", "correct_bias")
    assert (search.keep, search.changes) == (("layer3.0",), ("equalize", "correct_bias"))


def test_free_mends_that_the_whole_error_does_not_show_spare_a_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop(16, {"layer3.0", "layer7.0"})
    shop.eased = frozenset({"layer7.0"})
    search, _, _ = searched(shop, monkeypatch, "equalize")
    assert (search.keep, search.changes) == (("layer3.0",), ("equalize",))
    assert search.run()[1].startswith("with equalize, layer3.0 must stay float: 6.2%")


def test_an_export_that_is_refused_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(16, {"layer3.0"})
    search, ended, said = searched(shop, monkeypatch, "refused")
    assert (ended, search.changes) == ("mended", ())
    assert "build 2 (refused, 0 s) misses: it is not the same function" in said


@pytest.mark.exhaustive
def test_a_file_that_was_damaged_is_not_searched(digits: Weights, tmp_path: Path) -> None:
    """Other weights than the network's: the same export, made again, is right."""
    artifact = export(digits, tmp_path / "sound", **ORT, calibration_images=64)
    proto = onnx.load(artifact.path)
    (scale,) = (t for t in proto.graph.initializer if t.name == "layer2.0.conv1.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(scale), scale.name))
    artifact.path.write_bytes(proto.SerializeToString())
    found = bisect(resealed(artifact))
    assert (found.outcome, found.passed) == ("elsewhere", False)
    assert found.reason.startswith("the same export, made again")


def resealed(artifact: Artifact) -> Artifact:
    manifest = json.loads(artifact.manifest.to_json())
    manifest |= {"file_sha256": file_sha256(artifact.path), "check": None}
    manifest["file_size_bytes"] = artifact.path.stat().st_size
    (artifact.directory / "manifest.json").write_text(json.dumps(manifest))
    return read_artifact(artifact.directory)


def test_the_exports_own_gate_is_not_that_of_the_search(digits: Weights, tmp_path: Path) -> None:
    artifact = planted(huge(digits), tmp_path, **TRT)
    workshop = Workshop(artifact, None, tmp_path / "scratch")
    again = workshop.build(workshop.request)
    assert again.manifest.file_sha256 == artifact.manifest.file_sha256
    assert workshop.checked(again, workshop.request) is None
    request = workshop.changed(("layer2.0",))
    mended = workshop.build(request)
    checked = workshop.checked(mended, request)
    assert checked is not None
    assert checked.manifest.file_sha256 == mended.manifest.file_sha256
    assert (mended.manifest.check, checked.manifest.check is None) == (None, False)


def test_what_float16_overflows_on_is_exported_and_judged_with_its_block_in_float(
    digits: Weights, tmp_path: Path
) -> None:
    file = tmp_path / "wide.safetensors"
    save_weights(scaled_channel(digits, "layer2.0.bn2", "layer2.0.conv3", 1e6), file)
    with pytest.raises(GateFailed, match="beyond fp16's 65504") as refused:
        export(str(file), tmp_path / "fp16", precision="fp16")
    assert refused.value.hint.endswith("with `keep_fp32` layer2.0")
    artifact = export(str(file), tmp_path / "fp16", precision="fp16", keep_fp32=("layer2.0",))
    assert artifact.manifest.check is not None
    outcome = check(artifact)
    assert outcome.passed
    assert "eager PyTorch overflows in it there" in outcome.unknown


# ---- what is refused


def test_agreement_is_not_asked_of_weights_that_were_never_trained(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "model": "resnext11_8x4d_digits",
        "calibration": "random",
        "calibration_images": 8,
    }
    artifact = export("seeded", tmp_path / "seeded", check=False, **ORT, **fields)
    with pytest.raises(UsageError, match="the weights are seeded, not trained"):
        bisect(artifact, agreement=0.9)


def test_a_float_network_is_refused(digits_artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="is fp32: there is no block to keep in float"):
        bisect(digits_artifact)


def test_a_file_from_elsewhere_is_refused(tmp_path: Path) -> None:
    file = write(mobile(), tmp_path / "model.onnx")
    done = CliRunner().invoke(parity, ["--artifact", str(file), "--bisect"])
    assert done.exit_code == 2
    assert "its layers are not known" in done.stderr


def test_a_taken_folder_is_refused_before_the_search(
    fp16_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UsageError, match="taken") as refused:
        bisect(fp16_artifact, output=tmp_path / "taken")
    assert refused.value.hint == "choose another `output`"  # it has no `force`


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "out"], "--output and --agreement are for --bisect"),
        (["--agreement", "0.9"], "--output and --agreement are for --bisect"),
        (["--bisect", "--verdict"], "drop --verdict"),
        (["--bisect", "--reference", "onnx"], "--reference"),
        (["--bisect", "--agreement", "1.5"], "--agreement"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], says: str, fp16_artifact: Artifact
) -> None:
    done = CliRunner().invoke(parity, ["--artifact", str(fp16_artifact.directory), *words])
    assert done.exit_code == 2
    assert says in done.stderr


def test_without_the_exporter_the_option_says_so(
    fp16_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("resnext_export.bisect")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "resnext_export", None)
    words = ["--artifact", str(fp16_artifact.directory), "--bisect", "--debug"]
    done = CliRunner().invoke(parity, words)
    assert isinstance(done.exception, MissingRequirement) or done.exit_code == 3
    assert "the exporter is not installed" in str(done.exception) + done.stderr


# ---- what is said and stored


@pytest.mark.usefixtures("islands_only")
def test_the_command_searches_prints_and_stores(digits: Weights, tmp_path: Path) -> None:
    artifact = planted(huge(digits), tmp_path, **TRT)
    stored, output = tmp_path / "found.json", tmp_path / "mended"
    words = f"--artifact {artifact.directory} --bisect --backend onnx-reference --images 28"
    words += f" --images-from digits --output {output} --json {stored} --junit {tmp_path / 'j.xml'}"
    done = CliRunner().invoke(parity, words.split())
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("MENDED  ")
    assert "layer2.0 must stay float" in done.stdout
    assert "price      not measured" in done.stdout
    assert "########################" in done.stdout
    assert f"wrote {output}" in done.stderr
    found = read_bisection(stored)
    assert found.keep == ("layer2.0",)
    assert found.command.split() == [
        *("resnext-export", "--format", "onnx", "--weights", str(tmp_path / "weights.safetensors")),
        *("--precision", "int8", "--for", "trt", "--calibration", "digits"),
        *("--calibration-images", "64", "--keep-fp32", "layer2.0", "--output", str(output)),
    ]


def test_fewer_images_than_requested_and_the_time_of_a_search_are_told(
    fp16_artifact: Artifact, tmp_path: Path
) -> None:
    words = f"--artifact {fp16_artifact.directory} --bisect --images-from digits --images 400"
    done = CliRunner().invoke(parity, [*words.split(), "--junit", str(tmp_path / "j.xml")])
    assert done.exit_code == 0, done.stderr
    assert "warning: digits test has 359 images" in done.stderr
    (case,) = ElementTree.parse(tmp_path / "j.xml").iter("testcase")
    assert float(case.attrib["time"]) > 0


def test_an_artifact_of_low_precision_that_misses_is_sent_to_the_search(
    digits: Weights, tmp_path: Path
) -> None:
    artifact = planted(huge(digits), tmp_path, **TRT)
    words = f"--artifact {artifact.directory} --backend onnx-reference --images-from digits"
    done = CliRunner().invoke(parity, words.split())
    assert done.exit_code == 1
    assert "--bisect finds the blocks that it loses by" in done.stderr


@pytest.mark.usefixtures("untimed", "islands_only")
def test_a_command_for_what_the_export_would_refuse_turns_its_check_off(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = planted(huge(digits), tmp_path, **TRT)
    monkeypatch.setattr(Workshop, "checked", lambda *_: None)
    found = bisect(
        artifact, images_from="digits", runtime="onnx-reference", output=tmp_path / "mended"
    )
    assert found.command.endswith(f"--output {tmp_path / 'mended'} --no-check")
    written = read_artifact(tmp_path / "mended").manifest
    assert (written.file_sha256, written.check) == (found.mended_sha256, None)


@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_the_price_is_measured_in_turns(slower: float) -> None:
    """Under a drift of 1 % a visit, which is the same for both."""
    visits: list[str] = []

    def visit(name: str, time_ns: float) -> Callable[[], float]:
        def timed() -> float:
            visits.append(name)
            return time_ns * (1 + 0.01 * len(visits))

        return timed

    price = price_of([visit("original", 2e6), visit("mended", slower * 2e6)], batch=8)
    assert "".join(name[0] for name in visits) == "ommo" * ROUNDS
    assert price.low <= price.ratio <= price.high
    assert price.ratio == pytest.approx(slower, rel=0.01)
    assert price.original_ms == pytest.approx(2.37, rel=0.02)


def test_logits_that_are_not_finite_are_the_worst_damage() -> None:
    wanted = np.ones((2, 3))
    assert relative_error(wanted * 1.5, wanted) == 0.5
    assert relative_error(np.full((2, 3), np.nan), wanted) == math.inf


def test_damage_beyond_numbers_is_stored_and_shown() -> None:
    found = Bisection(
        created="2026-01-01T00:00:00+00:00",
        toolkit="1",
        artifact="out/model.onnx",
        artifact_sha256="a" * 64,
        precision="fp16",
        runtime="ort-cpu",
        gate="default",
        images=7,
        source="seeded",
        outcome="float-only",
        reason="only float",
        damage=(
            Damage(block="conv1", error=None, macs_share=0.5),
            Damage(block="fc", error=0.1, macs_share=0.5),
        ),
        attempts=(Attempt(passed=False),),
    )
    again = Bisection.model_validate_json(found.to_json(), strict=True)
    assert again == found
    lines = [headline(again), *report(again)]
    assert lines[0] == "NOT MENDED  out/model.onnx on ort-cpu: only float"
    assert any(line.startswith("conv1") and "not finite" in line for line in lines)


def test_a_command_has_every_field_that_was_set() -> None:
    request = ExportRequest(
        weights="my file.pth",
        precision="fp16",
        format="trt-rtx",
        targets=("sm_89", "sm_120"),
        mean=(0.5, 0.25, 0.5),
        keep_fp32=("layer1.0", "fc"),
        bake_preprocessing=True,
        merge_groups=16,
        batch="1:8:64",
    )
    assert export_command(request, "out") == (
        "resnext-export --format trt-rtx --weights 'my file.pth' --mean 0.5,0.25,0.5"
        " --bake-preprocessing --batch 1:8:64 --precision fp16 --keep-fp32 layer1.0,fc"
        " --merge-groups 16 --target sm_89,sm_120 --output out"
    )
