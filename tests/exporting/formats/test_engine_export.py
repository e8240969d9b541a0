"""Engines of TensorRT-RTX, built by the real library without a GPU, and options refused where they
do not belong.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from exported import export_engine, export_onnx, relabeled, seeded_resnext50
from resnext.artifact.files import Artifact, read_artifact, seal
from resnext.artifact.manifest import BatchRange, CheckRecord, Manifest
from resnext.artifact.records import Compatibility, EngineOptions, Fallback, TilingLevel
from resnext.artifact.trust import built_here
from resnext.errors import BadArtifact, EngineRefused, GateFailed, MissingRequirement, UsageError
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import this_platform
from resnext.network.layers import layers
from resnext.precision import Precision
from resnext.readers.files import file_sha256
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.trt.identity import engine_name
from resnext.runtimes.trt.library import (
    RTX_DEFAULT_TARGETS,
    RTX_TARGETS,
    Library,
    TensorRT,
    TensorRTRTX,
)
from resnext.verify.delivered import share_of, undelivered
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights, load_weights
from resnext_export import proof
from resnext_export.cli.export import main
from resnext_export.inspection import delivered_line
from resnext_export.options import options_of
from resnext_export.registry import EngineChoices

DTYPES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16"}


def options(batch: str = "1:8:64", **more: Any) -> EngineOptions:
    return EngineOptions(
        profiles=tuple(BatchRange.parse(part) for part in batch.split(",")), **more
    )


#: Batch and targets of each engine, and the first dimension of its input.
BUILDS: dict[str, tuple[EngineOptions, int | None]] = {
    "a range": (options(), None),
    "one batch": (options("4"), 4),
    "two profiles": (options("1,4:8:16"), None),
    "one target": (options(targets=("sm_89",)), None),
    "several targets": (options(targets=RTX_TARGETS[1:]), None),
}


def test_an_engine_that_is_built_here_is_remembered(engine: Artifact) -> None:
    assert built_here(engine.manifest.file_sha256)
    assert not built_here("0" * 64)


def share(manifest: Manifest) -> float:
    assert manifest.engine is not None
    return share_of(manifest, delivered_from_engine(manifest.engine.layers, "ahead of time"))


@pytest.fixture(scope="module")
def parents(
    digits: Weights,
    digits_artifact: Artifact,
    fp16_artifact: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, Precision], tuple[Weights, Artifact]]:
    found: dict[tuple[str, Precision], tuple[Weights, Artifact]] = {
        ("digits", "fp32"): (digits, digits_artifact),
        ("digits", "fp16"): (digits, fp16_artifact),
    }
    folder = tmp_path_factory.mktemp("parents")
    for spec in set(SHIPPED) - {"digits"}:
        weights = load_weights(spec)
        for precision in DTYPES:
            made = export_onnx(
                weights, folder / f"{spec}-{precision}", precision=precision, check=False
            )
            found[spec, precision] = (weights, made)
    return found


# ---- what is built


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("spec", SHIPPED)
def test_an_engine_has_the_precision_and_batches_that_were_asked_for(
    spec: str, precision: Precision, build: str, parents: Any, rtx: Library, tmp_path: Path
) -> None:
    weights, parent = parents[spec, precision]
    asked, first = BUILDS[build]
    export_engine(parent, weights, tmp_path / "engine", kind="trt-rtx", options=asked)
    manifest = read_artifact(tmp_path / "engine").manifest
    record = manifest.engine
    assert record is not None
    assert (manifest.kind, record.library, record.version) == (
        "trt-rtx",
        "tensorrt_rtx",
        rtx.version,
    )
    assert manifest.versions["tensorrt_rtx"] == rtx.version
    assert (record.options, record.done) == (asked, ())
    assert (record.gpu, record.compute_capability, record.cuda_driver) == (None, None, None)
    assert (record.platform, record.layers_from) == (this_platform(), "build log")
    assert manifest.parent_sha256 == parent.manifest.file_sha256 != manifest.file_sha256
    assert manifest.check is None  # nothing here could have run it
    assert manifest.precision == precision
    assert [spec.shape[0] for spec in (*manifest.inputs, *manifest.outputs)] == [first, first]
    assert manifest.batch == asked.batch
    assert share(manifest) == 1.0
    assert (
        undelivered(delivered_from_engine(record.layers, ""), weights.config, DTYPES[precision])
        == ()
    )
    assert {DTYPES[precision]} == {layer.dtype for layer in record.layers if layer.multiplies}


def test_two_profiles_leave_a_gap_and_no_target_is_the_librarys_own_choice(
    parents: Any, rtx: Library, tmp_path: Path
) -> None:
    weights, parent = parents["digits", "fp32"]
    made = export_engine(
        parent, weights, tmp_path / "e", kind=rtx.kind, options=options("1,4:8:16")
    ).manifest
    assert [made.takes(batch) for batch in (1, 2, 4, 16, 17)] == [True, False, True, True, False]
    assert made.batches() == "1, 4..16"
    assert made.engine is not None
    assert made.engine.options.targets == ()


def test_a_target_reaches_the_library(parents: Any, rtx: Library, tmp_path: Path) -> None:
    weights, parent = parents["digits", "fp32"]
    asked = options(targets=("sm_89", "sm_75"))
    with pytest.raises(
        EngineRefused, match=r"Turing \(SM75\)"
    ):  # TensorRT-RTX has no float32 products for it
        export_engine(parent, weights, tmp_path / "e", kind=rtx.kind, options=asked)
    assert list(tmp_path.iterdir()) == []
    weights, parent = parents["digits", "fp16"]
    made = export_engine(parent, weights, tmp_path / "e", kind=rtx.kind, options=asked).manifest
    assert share(made) == 1.0


def test_an_engine_of_a_static_file_needs_no_profile(
    static_artifact: Artifact, digits: Weights, rtx: Library, tmp_path: Path
) -> None:
    made = export_engine(
        static_artifact, digits, tmp_path / "e", kind=rtx.kind, options=options("3")
    ).manifest
    assert made.inputs[0].shape == (3, 1, 8, 8)
    with pytest.raises(UsageError, match=r"takes batch 3, so not the profile 1\.\.64"):
        export_engine(static_artifact, digits, tmp_path / "other", kind=rtx.kind, options=options())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("batch", "fits"), [("2:4:6", True), ("1:4:6", False), ("2:4:7", False)])
def test_profiles_must_lie_in_what_the_onnx_file_takes(
    batch: str, fits: bool, digits: Weights, digits_artifact: Artifact, rtx: Library, tmp_path: Path
) -> None:
    parent = relabeled(digits_artifact, tmp_path / "parent", batch=BatchRange.parse("2:4:6"))
    if fits:
        assert export_engine(
            parent, digits, tmp_path / "e", kind=rtx.kind, options=options(batch)
        ).path.exists()
    else:
        with pytest.raises(UsageError, match=r"takes batch 2\.\.6, so not the profile"):
            export_engine(parent, digits, tmp_path / "e", kind=rtx.kind, options=options(batch))


def test_an_engine_can_take_pixels(digits: Weights, rtx: Library, tmp_path: Path) -> None:
    parent = export_onnx(
        digits, tmp_path / "onnx", bake_preprocessing=True, precision="fp16", check=False
    )
    made = export_engine(parent, digits, tmp_path / "e", kind=rtx.kind, options=options()).manifest
    assert made.preprocessing_baked
    assert (made.inputs[0].dtype, made.inputs[0].shape) == ("uint8", (None, 8, 8, 1))
    assert share(made) == 1.0


def test_an_engine_is_not_an_engines_parent(
    engine: Artifact, digits: Weights, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is of kind trt-rtx"):
        export_engine(engine, digits, tmp_path / "e", kind="trt-rtx", options=options())


def test_an_engine_is_not_replaced_without_force(
    engine: Artifact, digits: Weights, digits_artifact: Artifact
) -> None:
    with pytest.raises(UsageError, match="`force`"):
        export_engine(digits_artifact, digits, engine.directory, kind="trt-rtx", options=options())


@pytest.mark.parametrize("precision", DTYPES)
def test_a_manifest_that_says_another_precision_is_seen(
    precision: Precision, parents: Any, rtx: Library, tmp_path: Path
) -> None:
    weights, parent = parents["digits", precision]
    other: Precision = "fp32" if precision == "fp16" else "fp16"
    liar = relabeled(parent, tmp_path / "liar", precision=other)
    made = export_engine(liar, weights, tmp_path / "e", kind=rtx.kind, options=options()).manifest
    assert share(made) == 0.0
    assert delivered_line(made).startswith(
        f"{DTYPES[other]} in 0.0% of convolution and product FLOPs; not in conv1"
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", DTYPES)
def test_resnext50_builds_in_seconds_with_every_layer_as_asked(
    precision: Precision, rtx: Library, tmp_path: Path
) -> None:
    weights = seeded_resnext50()
    parent = export_onnx(weights, tmp_path / "onnx", precision=precision, check=False)
    asked = options("1:8:64,64:128:256", targets=("sm_89",))
    made = export_engine(
        parent, weights, tmp_path / "engine", kind=rtx.kind, options=asked
    ).manifest
    assert made.engine is not None
    assert made.engine.build_s < 10
    assert share(made) == 1.0
    assert len(list(layers(weights.config))) == 54
    assert made.file_size_bytes > 25e6 * (2 if precision == "fp16" else 4)


# ---- the digest inside


def test_the_engines_bytes_bear_the_digest_of_its_facts(
    engine: Artifact, fp16_engine: Artifact
) -> None:
    own, others = (
        engine_name(made.manifest, refittable=False).encode() for made in (engine, fp16_engine)
    )
    assert own in engine.path.read_bytes()
    assert others not in engine.path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"preprocessing": m.preprocessing.model_copy(update={"mean": (0.9,)})},
        lambda _: {"preprocessing_baked": True},
        lambda m: {"class_names": m.class_names[::-1]},
        lambda _: {"precision": "fp16"},
        lambda m: {"config": replace(m.config, depths=(1, 1, 2))},
    ],
)
@pytest.mark.parametrize("refittable", [False, True])
def test_another_fact_is_another_digest(
    engine: Artifact, refittable: bool, change: Callable[[Manifest], dict[str, Any]]
) -> None:
    other = engine.manifest.model_copy(update=change(engine.manifest))
    assert engine_name(other, refittable=refittable) != engine_name(
        engine.manifest, refittable=refittable
    )


def test_weights_are_in_the_digest_unless_a_refit_may_change_them(engine: Artifact) -> None:
    weights = engine.manifest.weights.model_copy(update={"sha256": "0" * 64})
    other = engine.manifest.model_copy(update={"weights": weights})
    assert engine_name(other, refittable=False) != engine_name(engine.manifest, refittable=False)
    assert engine_name(other, refittable=True) == engine_name(engine.manifest, refittable=True)
    assert engine_name(other, refittable=True) != engine_name(engine.manifest, refittable=False)


def test_where_an_artifact_lies_and_what_its_weights_are_called_change_no_digest(
    engine: Artifact,
) -> None:
    weights = engine.manifest.weights.model_copy(update={"source": "/elsewhere/digits.safetensors"})
    moved = engine.manifest.model_copy(update={"weights": weights, "created": "now"})
    assert engine_name(moved, refittable=False) == engine_name(engine.manifest, refittable=False)


# ---- with a GPU, planted


ADA = Driver(None, 1, "13.0", (Gpu("NVIDIA L4", "8.9"),))
HOPPER = Driver(None, 1, "13.0", (Gpu("NVIDIA H200", "9.0"),))


def test_an_engine_that_can_run_here_is_proven_on_its_own_backend(
    digits: Weights,
    digits_artifact: Artifact,
    rtx: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant_driver: Callable[[Driver], None],
) -> None:
    asked_of = []

    def prove(artifact: Artifact, expected: proof.Expected, backend: str) -> CheckRecord:
        assert file_sha256(artifact.path) == artifact.manifest.file_sha256
        asked_of.append((backend, expected.batches))
        return CheckRecord(batches=expected.batches, backend=backend, max_error=0.0, tolerance=1e-4)

    plant_driver(ADA)
    monkeypatch.setattr(proof, "prove", prove)
    asked = options("1,4:8:16,16:30:40", targets=("sm_89",))
    made = export_engine(
        digits_artifact, digits, tmp_path / "e", kind=rtx.kind, options=asked
    ).manifest
    assert asked_of == [
        ("trt-rtx", (1, 4, 8, 16, 30, 40))
    ]  # every batch that kernels were chosen for
    assert made.check is not None
    assert made.engine is not None
    assert (made.engine.gpu, made.engine.compute_capability) == ("NVIDIA L4", "8.9")
    assert made.engine.cuda_driver == "13.0"


def test_an_engine_that_computes_something_else_is_not_written(
    digits: Weights,
    digits_artifact: Artifact,
    rtx: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant_driver: Callable[[Driver], None],
) -> None:
    def prove(*_: object) -> CheckRecord:
        raise GateFailed("planted")

    plant_driver(ADA)
    monkeypatch.setattr(proof, "prove", prove)
    with pytest.raises(GateFailed, match="planted"):
        export_engine(digits_artifact, digits, tmp_path / "e", kind=rtx.kind, options=options())
    assert list(tmp_path.iterdir()) == []
    export_engine(
        digits_artifact, digits, tmp_path / "e", kind=rtx.kind, options=options(), check=False
    )


def test_an_engine_for_other_gpus_than_this_machines_is_built_and_says_that_it_is_unchecked(
    digits_artifact: Artifact, rtx: Library, tmp_path: Path, plant_driver: Callable[[Driver], None]
) -> None:
    plant_driver(HOPPER)
    arguments = [
        "--format",
        rtx.kind,
        "--onnx",
        str(digits_artifact.directory),
        "--target",
        "sm_89",
    ]
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "e")])
    assert result.exit_code == 0, result.output
    manifest = read_artifact(tmp_path / "e").manifest
    assert manifest.check is None
    assert manifest.engine is not None
    assert manifest.engine.gpu == "NVIDIA H200"
    assert (
        "NOT CHECKED: it was built for sm_89, NVIDIA H200 has 9.0; on its machine: resnext-parity"
        in result.stdout
    )


# ---- graphs that do not build


def broken(parent: Artifact, folder: Path, fault: str) -> Artifact:
    """An artifact whose file is spoilt, under a manifest that describes it well."""
    shutil.copytree(parent.directory, folder)
    path = folder / parent.manifest.file
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "text":
        path.write_text("this is no model")
    else:
        proto = onnx.load(str(path))
        conv = next(node for node in proto.graph.node if node.name == "layer1.0.conv2")
        if fault == "operator":
            conv.op_type = "Convolve"
        else:
            weight = next(
                tensor for tensor in proto.graph.initializer if tensor.name == conv.input[1]
            )
            values = onnx.numpy_helper.to_array(weight).astype("float16")
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(proto, str(path))
    seal(
        folder,
        parent.manifest.model_copy(
            update={"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
        ),
    )
    return read_artifact(folder)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("operator", "node 'layer1.0.conv2' (Convolve): TensorRT does not know this operator"),
        (
            "types",
            (
                "node 'layer1.0.conv2' (Conv): IConvolutionLayer `input` and `kernel` must be of"
                " same type"
            ),
        ),
        ("cut", "this is not an ONNX file, or it is cut short"),
        ("text", "this is not an ONNX file, or it is cut short"),
    ],
)
def test_a_graph_that_the_library_refuses_is_one_line_with_the_node(
    fault: str, said: str, digits_artifact: Artifact, digits: Weights, rtx: Library, tmp_path: Path
) -> None:
    parent = broken(digits_artifact, tmp_path / "onnx", fault)
    # What is no graph at all never reaches the library.
    error = EngineRefused if "node" in said else BadArtifact
    with pytest.raises(error) as caught:
        export_engine(parent, digits, tmp_path / "e", kind=rtx.kind, options=options())
    assert said in str(caught.value)
    assert getattr(caught.value, "nodes", ()) == (("layer1.0.conv2",) if "node" in said else ())
    result = export(
        "--format", rtx.kind, "--onnx", str(parent.directory), "--output", str(tmp_path / "e")
    )
    assert result.exit_code == 4
    # The command looks at the weights before the library does.
    assert ("the weights of layer1.0.conv2 are float16" if fault == "types" else said) in one_line(
        result
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


# ---- the command


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def elsewhere(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(kept))
    return tmp_path


def export(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="resnext-export")


def one_line(result: Result) -> str:
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_the_command_builds_into_a_folder_named_after_what_was_asked(
    elsewhere: Path, rtx: Library
) -> None:
    asked = ["--batch", "1,4:8:16", "--target", "sm_89,sm_120"]
    result = export("--format", rtx.kind, "--weights", "digits", "--precision", "fp16", *asked)
    assert result.exit_code == 0, result.output
    manifest = read_artifact(elsewhere / "digits-fp16-trt-rtx").manifest
    assert manifest.engine is not None
    assert manifest.engine.options == options("1,4:8:16", targets=("sm_89", "sm_120"))
    assert f"tensorrt_rtx {rtx.version}, built in " in result.stdout
    assert "float32 [N, 1, 8, 8], batch 1, 4..16" in result.stdout
    assert "built for sm_89, sm_120\n" in result.stdout
    assert (
        "delivered float16 in 100.0% of convolution and product FLOPs (build log)\n"
        in result.stdout
    )
    assert "parity    NOT CHECKED: there is no GPU here" in result.stdout
    assert "resnext-parity --artifact DIR --backend trt-rtx" in result.stdout


def test_json_alone_is_on_stdout(elsewhere: Path, rtx: Library, digits_artifact: Artifact) -> None:
    onnx_file = str(digits_artifact.directory)
    result = export("--format", rtx.kind, "--onnx", onnx_file, "--output", "e", "--json", "-")
    assert result.exit_code == 0, result.output
    manifest = Manifest.model_validate(json.loads(result.stdout))
    assert manifest == read_artifact(elsewhere / "e").manifest


@pytest.mark.usefixtures("elsewhere")
def test_no_target_is_said_in_words(rtx: Library, digits_artifact: Artifact) -> None:
    result = export("--format", rtx.kind, "--onnx", str(digits_artifact.directory), "--output", "e")
    assert f"built for {RTX_DEFAULT_TARGETS}\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--compatibility", "ampere+"], "--compatibility is TensorRT's"),
        (["--compatibility", "same-cc"], "--compatibility is TensorRT's"),
        (["--compatibility", "version"], "--compatibility is TensorRT's"),
        (["--optimization-level", "5"], "--optimization-level is TensorRT's"),
        (["--tiling-level", "full"], "--tiling-level is TensorRT's"),
        (["--timing-cache", "times"], "--timing-cache is TensorRT's"),
        (
            ["--target", "sm_90"],
            "has no target sm_90; known: sm_75, sm_80, sm_86, sm_89, sm_120, sm_121",
        ),
        (["--target", "sm_89,ada"], "has no target ada"),
        (["--batch", "1:8"], "an engine needs an upper limit: --batch 1:8:MAX, for example 1:8:64"),
        (
            ["--batch", "4,2:4"],
            "an engine needs an upper limit: --batch 2:4:MAX, for example 2:4:32",
        ),
        (["--batch", "8:1:64"], "must satisfy 1 <= MIN <= OPT <= MAX"),
        (["--batch", "1:8:64,"], "is not N, MIN:OPT or MIN:OPT:MAX"),
        (
            ["--on-refusal", "fail,merge-groups"],
            "'fail' allows no fallback, so nothing can be listed with it",
        ),
        (["--on-refusal", "merge"], "unknown fallback 'merge'; did you mean 'merge-groups'?"),
        (
            ["--compatibility", "ampere"],
            "unknown compatibility level 'ampere'; did you mean 'ampere+'?",
        ),
        (["--optimization-level", "6"], "6 is not in the range 0<=x<=5"),
        (["--workspace", "0"], "0 is not in the range"),
        (["--workspace", "9" * 20], "is not in the range"),
        (["--precision", "fp16", "--tf32"], "--tf32 is for float32 engines, and this one is fp16"),
    ],
)
def test_an_option_that_does_not_go_is_one_line(
    arguments: list[str], said: str, elsewhere: Path, rtx: Library
) -> None:
    result = export("--format", rtx.kind, "--weights", "digits", *arguments)
    assert result.exit_code == 2, result.output
    assert said in one_line(result)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tf32"],
        ["--workspace", "64"],
        ["--optimization-level", "0"],
        ["--tiling-level", "none"],
        ["--timing-cache", "x"],
        ["--compatibility", "version"],
        ["--strip-weights"],
        ["--target", "sm_89"],
        ["--on-refusal", "fail"],
    ],
)
def test_an_engines_option_is_refused_for_onnx(arguments: list[str], elsewhere: Path) -> None:
    result = export("--format", "onnx", "--weights", "digits", *arguments)
    assert result.exit_code == 2, result.output
    assert f"{arguments[0]} is for engines: --format trt or trt-rtx" in one_line(result)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "resnet50"],
        ["--num-classes", "7"],
        ["--input-size", "8"],
        ["--bake-preprocessing"],
    ],
)
def test_what_the_onnx_artifact_fixes_cannot_be_asked_for_beside_it(
    arguments: list[str], rtx: Library, digits_artifact: Artifact
) -> None:
    result = export("--format", rtx.kind, "--onnx", str(digits_artifact.directory), *arguments)
    assert result.exit_code == 2, result.output
    assert f"the ONNX artifact has its own {arguments[0][2:]}; drop it" in one_line(result)


@pytest.mark.usefixtures("elsewhere")
def test_weights_of_another_network_than_the_artifacts_are_refused(
    rtx: Library, digits_artifact: Artifact
) -> None:
    result = export(
        "--format", rtx.kind, "--onnx", str(digits_artifact.directory), "--weights", "seeded"
    )
    assert result.exit_code == 4, result.output
    assert "are not those that" in one_line(result)


@pytest.mark.usefixtures("elsewhere")
def test_stripping_without_a_driver_says_so_before_any_work(rtx: Library) -> None:
    result = export("--format", rtx.kind, "--weights", "digits", "--strip-weights")
    assert result.exit_code == 3
    assert "drop --strip-weights" in one_line(result)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("subcommand", ["inspect", "check-trt", "refit"])
def test_options_before_a_subcommand_are_refused(subcommand: str) -> None:
    result = export("--format", "trt", subcommand, "x")
    assert result.exit_code == 2
    assert f"options go after {subcommand}" in one_line(result)


@pytest.mark.usefixtures("elsewhere")
def test_a_word_that_is_no_subcommand_is_one_line() -> None:
    result = export("inspct", "x")
    assert result.exit_code == 2
    assert "inspct" in one_line(result)


# ---- which library


def absent(
    library: type[Library], monkeypatch: pytest.MonkeyPatch, version: str | None = None
) -> None:
    monkeypatch.setattr(library, "version", version)


@pytest.mark.usefixtures("elsewhere")
def test_neither_library_is_exit_3_with_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(TensorRT, monkeypatch)
    absent(TensorRTRTX, monkeypatch)
    for kind, named in (
        ("trt", "pip install tensorrt (or tensorrt_rtx"),
        ("trt-rtx", "pip install tensorrt_rtx"),
    ):
        result = export("--format", kind, "--weights", "digits")
        assert result.exit_code == 3
        assert named in one_line(result)


def test_trt_is_rtx_where_only_that_is_installed_and_the_artifact_says_so(
    elsewhere: Path, rtx: Library, digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(TensorRT, monkeypatch)
    result = export("--format", "trt", "--onnx", str(digits_artifact.directory))
    assert result.exit_code == 0, result.output
    assert read_artifact(elsewhere / "digits-fp32-trt-rtx").manifest.kind == rtx.kind


@pytest.mark.usefixtures("elsewhere")
def test_tensorrt_itself_takes_no_targets_and_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(TensorRT, monkeypatch, "11.4.0.106")
    result = export("--format", "trt", "--target", "sm_89")
    assert result.exit_code == 2
    assert "--target is TensorRT-RTX's" in one_line(result)
    result = export("--format", "trt", "--weights", "digits")
    assert result.exit_code == 3
    assert "--format trt-rtx and --target sm_89 (pip install tensorrt_rtx)" in one_line(result)


def test_a_library_that_is_installed_but_does_not_load_says_so(
    rtx: Library,
    digits: Weights,
    digits_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resnext.runtimes.trt import library as trt_library

    def no_library(name: str) -> None:
        raise OSError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(trt_library, "import_module", no_library)
    with pytest.raises(MissingRequirement, match="installed but does not load"):
        export_engine(digits_artifact, digits, tmp_path / "e", kind=rtx.kind, options=options())
    assert list(tmp_path.iterdir()) == []


def test_the_choices_of_a_request_are_those_that_the_record_takes() -> None:
    fields = {name: str(annotation) for name, (_, annotation) in options_of(EngineChoices).items()}
    for name, names in (
        ("compatibility", Compatibility),
        ("tiling_level", TilingLevel),
        ("fallbacks", Fallback),
    ):
        assert str(names) in fields[name], name
