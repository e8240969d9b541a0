from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, numpy_helper
from PIL import Image

from exported import derive_onnx, export_onnx, export_openvino
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.onnx_precision import check_onnx_precision
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, BadInput, GateFailed, ResnextError, UsageError
from resnext.readers.files import file_sha256
from resnext.weights.spec import Weights, load_weights
from resnext_export.cli.export import main
from resnext_export.command import recorded_widths
from resnext_export.formats import derived
from resnext_export.passes.base import PassResult
from resnext_export.passes.lower import Lower
from resnext_export.passes.quantize_int8 import QuantizeInt8
from resnext_export.request import ExportRequest

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
RECIPES = {
    "fp16": ExportRequest(precision="fp16"),
    "bf16": ExportRequest(precision="bf16"),
    "int8": ExportRequest(precision="int8"),
    "int8 for trt": ExportRequest(precision="int8", runtime="trt"),
    "int8 for openvino": ExportRequest(precision="int8", runtime="openvino"),
    "fp8": ExportRequest(precision="fp8", runtime="trt"),
}

Derive = Callable[..., Artifact]


@pytest.fixture
def derive(
    digits: Weights, digits_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Derive:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))

    def make(recipe: ExportRequest, parent: Artifact = digits_artifact, **options: Any) -> Artifact:
        return derive_onnx(
            parent, options.pop("weights", digits), tmp_path / "derived", recipe, **options
        )

    return make


def refused(
    derive: Derive, tmp_path: Path, kind: type[ResnextError], match: str, *args: Any, **options: Any
) -> None:
    """It is refused in one line, and nothing is left."""
    with pytest.raises(kind, match=match) as caught:
        derive(*args, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "derived").exists()
    assert not list(tmp_path.glob(".derived.*"))


# --- what is made
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_derived_artifact_names_its_parent_and_is_proven(
    name: str, derive: Derive, digits_artifact: Artifact
) -> None:
    recipe = RECIPES[name]
    manifest = read_artifact(derive(recipe).directory).manifest
    assert manifest.parent_sha256 == digits_artifact.manifest.file_sha256
    assert manifest.precision == recipe.precision
    assert manifest.check is not None
    assert manifest.check.backend == (
        "onnx-reference" if recipe.precision in ("bf16", "fp8") else "ort-cpu"
    )
    assert manifest.check.error_ratio is not None
    assert manifest.check.error_ratio < 2
    assert (manifest.quantization is not None) == (recipe.precision in ("int8", "fp8"))
    assert (manifest.ranges is not None) == (recipe.precision in ("fp16", "bf16"))
    assert (manifest.inputs, manifest.outputs) == (
        digits_artifact.manifest.inputs,
        digits_artifact.manifest.outputs,
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("native", [False, True])
def test_every_weight_is_converted_and_inputs_are_as_asked(
    precision: Any, native: bool, derive: Derive
) -> None:
    artifact = derive(ExportRequest(precision=precision, io="native" if native else None))
    graph = onnx.load(artifact.path).graph
    assert {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1} == {
        TYPES[precision]
    }
    wanted = {"fp16": "float16", "bf16": "bfloat16"}[precision] if native else "float32"
    assert [spec.dtype for spec in (*artifact.manifest.inputs, *artifact.manifest.outputs)] == [
        wanted,
        wanted,
    ]
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {TYPES[precision] if native else TensorProto.FLOAT}


def test_a_quantized_artifact_says_with_which_images(derive: Derive) -> None:
    record = derive(
        ExportRequest(
            precision="int8",
            calibration="digits",
            calibration_images=40,
            calibration_method="percentile",
        )
    ).manifest.quantization
    assert record is not None
    assert (record.source, record.images, record.method, record.runtime) == (
        "digits calibration",
        40,
        "percentile",
        "ort",
    )
    assert [name for name, _ in record.left] == ["fc"]


def test_what_float8_leaves_is_said_before_the_work_and_noted(
    derive: Derive, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    original = derived._calibrated

    def calibrated(*args: Any) -> Any:
        said.append("calibrating")
        return original(*args)

    monkeypatch.setattr(derived, "_calibrated", calibrated)
    record = derive(RECIPES["fp8"], say=said.append).manifest.quantization
    assert said[1] == "calibrating"
    assert "9 of 13 convolutions" in said[0]
    assert "`merge_groups` 32" in said[0]
    assert record is not None
    assert [name for name, _ in record.left] == [
        "conv1",
        "layer1.0.conv2",
        "layer2.0.conv2",
        "layer3.0.conv2",
        "fc",
    ]


def test_stages_are_merged_to_their_own_widths_and_spelled_as_they_were(derive: Derive) -> None:
    manifest = derive(ExportRequest(merge_groups="layer3=32,layer1=16")).manifest
    assert manifest.merged is not None
    assert manifest.merged.groups == {"layer1.0.conv2": 2, "layer3.0.conv2": 4}
    assert recorded_widths(manifest) == "layer1=16,layer3=32"


def test_merged_groups_let_float8_take_every_convolution_but_the_stem(derive: Derive) -> None:
    manifest = derive(replace(RECIPES["fp8"], merge_groups=32)).manifest
    assert manifest.quantization is not None
    assert [name for name, _ in manifest.quantization.left] == ["conv1", "fc"]
    assert manifest.merged is not None
    assert manifest.merged.groups == {"layer1.0.conv2": 1, "layer2.0.conv2": 2, "layer3.0.conv2": 4}


@pytest.mark.parametrize("precision", [None, "int8", "bf16"])
def test_merged_groups_are_noted_and_exact(precision: Any, derive: Derive) -> None:
    manifest = derive(ExportRequest(precision=precision, merge_groups=16)).manifest
    assert manifest.merged is not None
    assert set(manifest.merged.groups) == {"layer1.0.conv2", "layer2.0.conv2"}
    assert manifest.merged.max_error <= 1e-10
    assert manifest.merged.speedup is None


def test_a_merge_of_a_quantized_file_keeps_its_calibration(derive: Derive, tmp_path: Path) -> None:
    first = derive(ExportRequest(precision="int8"))
    first.directory.rename(tmp_path / "first")
    second = derive(ExportRequest(merge_groups=16), read_artifact(tmp_path / "first"))
    assert second.manifest.quantization == first.manifest.quantization
    assert second.manifest.parent_sha256 == first.manifest.file_sha256


def test_baked_preprocessing_and_a_fixed_batch_are_kept(
    digits: Weights, derive: Derive, tmp_path: Path
) -> None:
    from resnext.artifact.manifest import BatchRange

    parent = export_onnx(
        digits, tmp_path / "p", bake_preprocessing=True, batch=BatchRange.parse("4"), check=False
    )
    for name in ("bf16", "int8", "fp8"):
        manifest = derive(RECIPES[name], parent, force=True).manifest
        assert manifest.check is not None
        assert (manifest.inputs[0].dtype, manifest.inputs[0].shape[0]) == ("uint8", 4)


def test_without_a_check_the_manifest_says_so(derive: Derive) -> None:
    assert derive(ExportRequest(precision="int8"), check=False).manifest.check is None


# --- what is caught
# ------------------------------------------------------------------------------------------


def test_an_overflow_is_named_by_layer(digits: Weights, derive: Derive, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in digits.state_dict.items()}
    for name in ("weight", "bias"):
        state[f"layer2.0.bn3.{name}"] *= 1e5
    large = replace(digits, state_dict=state)
    parent = export_onnx(large, tmp_path / "large", check=False)
    refused(
        derive,
        tmp_path,
        GateFailed,
        r"layer2\.0\.conv3",
        ExportRequest(precision="fp16"),
        parent,
        weights=large,
        check=False,
    )


def coarse(tensor: TensorProto, bits: int) -> None:
    values = numpy_helper.to_array(tensor)
    step = 2 ** (8 - bits)
    tensor.CopyFrom(
        numpy_helper.from_array(
            (np.round(values / step) * step).clip(-128, 127).astype(np.int8), tensor.name
        )
    )


def doubled(tensor: TensorProto, _: int) -> None:
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name)
    )


@pytest.mark.parametrize(
    ("spoil", "which"),
    [(coarse, "_quantized"), (doubled, "_scale")],
    ids=["3-bit weights", "a scale twice as large"],
)
@pytest.mark.parametrize("runtime", ["ort", "trt", "openvino"])
def test_a_badly_quantized_file_is_caught(
    spoil: Callable[[TensorProto, int], None],
    which: str,
    runtime: Any,
    derive: Derive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = QuantizeInt8.apply
    calls: list[str] = []

    def spoiled(self: QuantizeInt8, source: onnx.ModelProto) -> PassResult:
        result = original(self, source)
        proto = result.proto
        calls.append("")
        if len(calls) == 1:  # the file; then comes what it is measured by
            touched = [
                t for t in proto.graph.initializer if "weight" in t.name and t.name.endswith(which)
            ]
            for tensor in touched if spoil is coarse else touched[:1]:
                if tensor.data_type in (TensorProto.INT8, TensorProto.FLOAT) and len(tensor.dims):
                    spoil(tensor, 3)
        return result

    monkeypatch.setattr(QuantizeInt8, "apply", spoiled)
    refused(
        derive,
        tmp_path,
        GateFailed,
        "times what its precision costs",
        ExportRequest(precision="int8", runtime=runtime),
    )
    assert len(calls) == 2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_wrong_half_precision_file_is_caught(
    precision: Any, derive: Derive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Lower.apply

    def spoiled(self: Lower, source: onnx.ModelProto) -> PassResult:
        result = original(self, source)
        weight = next(t for t in result.proto.graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight)[:, :, ::-1].copy(), weight.name)
        )
        return result

    monkeypatch.setattr(Lower, "apply", spoiled)
    refused(
        derive,
        tmp_path,
        GateFailed,
        "does not compute what PyTorch computes",
        ExportRequest(precision=precision),
    )


def test_another_method_is_calibrated_with(derive: Derive) -> None:
    record = derive(
        ExportRequest(precision="int8", calibration_images=64, calibration_method="percentile")
    ).manifest.quantization
    assert record is not None
    assert (record.method, record.images) == ("percentile", 64)


# --- bad input
# ------------------------------------------------------------------------------------------


def test_only_a_float32_onnx_file_gets_another_precision(
    digits: Weights, derive: Derive, digits_artifact: Artifact, tmp_path: Path
) -> None:
    half = derive(ExportRequest(precision="bf16"), check=False)
    half.directory.rename(tmp_path / "half")
    refused(
        derive,
        tmp_path,
        BadInput,
        "no float32 artifact",
        ExportRequest(precision="int8"),
        read_artifact(tmp_path / "half"),
    )
    quantized = derive(ExportRequest(precision="int8"), check=False)
    quantized.directory.rename(tmp_path / "quantized")
    given = read_artifact(tmp_path / "quantized")
    for recipe in (
        ExportRequest(precision="int8"),
        ExportRequest(precision="fp16"),
        RECIPES["fp8"],
    ):
        refused(derive, tmp_path, BadInput, "is quantized already", recipe, given)
    ir = export_openvino(digits_artifact, digits, tmp_path / "ir", check=False)
    refused(derive, tmp_path, UsageError, "of kind openvino", ExportRequest(precision="int8"), ir)
    refused(derive, tmp_path, UsageError, "takes another", ExportRequest(precision="fp32"))
    for widths, match in (
        (2, "nothing to merge"),
        ("layer1=2", "of layer1 has groups of fewer than 2 channels: nothing to merge"),
        ("layer9=32", "unknown stage with groups 'layer9'.* Known: layer1, layer2, layer3"),
    ):
        refused(derive, tmp_path, UsageError, match, ExportRequest(merge_groups=widths))


def test_weights_without_images_of_their_own_need_some(
    tmp_path: Path, derive: Derive, digits: Weights
) -> None:
    seeded = load_weights("seeded", digits.config)
    parent = export_onnx(seeded, tmp_path / "seeded", check=False)
    for name in ("int8", "fp8"):
        refused(
            derive,
            tmp_path,
            UsageError,
            "`calibration` FOLDER",
            RECIPES[name],
            parent,
            weights=seeded,
        )


def folder_of(folder: Path, *pictures: Image.Image) -> str:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    return str(folder)


def test_images_that_cannot_be_used_are_refused(derive: Derive, tmp_path: Path) -> None:
    def asked(spec: str, images: int = 1) -> ExportRequest:
        return ExportRequest(precision="int8", calibration=spec, calibration_images=images)

    empty = folder_of(tmp_path / "empty")
    refused(derive, tmp_path, BadInput, "is empty", asked(empty))
    refused(derive, tmp_path, BadInput, "no folder at", asked(str(tmp_path / "absent")))
    few = folder_of(tmp_path / "few", *[Image.new("L", (8, 8), 40 * n) for n in range(3)])
    refused(derive, tmp_path, BadInput, "3 images and 128 were asked for", asked(few, 128))
    colored = folder_of(tmp_path / "colored", Image.new("RGB", (8, 8), (200, 10, 10)))
    refused(derive, tmp_path, BadInput, "is colored", asked(colored))
    (tmp_path / "few" / "0.png").write_bytes(b"not a picture")
    refused(derive, tmp_path, BadInput, r"0\.png", asked(few, 3))


def test_noise_must_be_asked_for_and_is_said(derive: Derive) -> None:
    said: list[str] = []
    record = derive(
        ExportRequest(precision="int8", calibration="random", calibration_images=16),
        say=said.append,
    ).manifest.quantization
    assert record is not None
    assert record.source == "random calibration"
    assert any("noise" in line for line in said)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "int8", "io": "native"}, "native"),
        ({"precision": "fp16", "calibration": "digits"}, "`calibration` is for"),
        ({"precision": "fp8", "runtime": "ort"}, "TensorRT"),
        ({"merge_groups": "auto", "runtime": "trt"}, "on a CPU"),
        ({"merge_groups": "layer1"}, "layer1=16,layer3=32"),
        ({"merge_groups": "layer1=1"}, "from 2 to 4096"),
        ({"merge_groups": "layer1=16,layer1=32"}, "'layer1=16,layer1=32' must be"),
    ],
)
def test_recipes_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ExportRequest(**options)


# --- the command
# ------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, [*args])

    return run


@pytest.mark.parametrize(
    ("args", "folder", "says"),
    [
        (("--precision", "bf16"), "digits-bf16-onnx", "ranges    at most"),
        (
            ("--precision", "int8"),
            "digits-int8-onnx",
            "images    128 of digits calibration, minmax; scheme for ort",
        ),
        (("--precision", "int8", "--for", "trt"), "digits-int8-for-trt-onnx", "scheme for trt"),
        (("--precision", "fp8"), "digits-fp8-onnx", "3 convolutions (4 channels"),
        (("--merge-groups", "16"), "digits-fp32-merged-onnx", "merged    2 convolutions"),
        (("--precision", "fp16", "--io", "native"), "digits-fp16-onnx", "input     input float16"),
    ],
)
def test_the_command_makes_what_is_asked(
    args: tuple[str, ...], folder: str, says: str, export: Callable[..., Result], tmp_path: Path
) -> None:
    result = export("--format", "onnx", "--weights", "digits", *args)
    assert result.exit_code == 0, result.output
    if "fp8" not in folder:
        assert says in result.output
    assert "times what" in result.output or "merged" in folder
    assert read_artifact(tmp_path / folder).manifest.check is not None
    shown = export(
        "inspect", folder, "--no-layers", *(("--backend", "openvino") if "bf16" in folder else ())
    )
    if "fp8" not in folder and "bf16" not in folder:
        assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--io", "native"), "--io is for fp16 and bf16"),
        (("--for", "trt"), "--for says what an int8 graph is for"),
        (("--calibration", "digits"), "--calibration is for int8 and fp8"),
        (("--precision", "fp16", "--calibration-images", "3"), "--calibration-images is for int8"),
        (("--precision", "int4"), "unknown precision 'int4'"),
        (("--precision", "int8", "--for", "tensorflow"), "unknown runtime"),
        (("--merge-groups", "0"), "must be auto, or a number of channels"),
        (("--merge-groups", "-4"), "must be auto, or a number of channels"),
        (("--precision", "fp8", "--for", "ort"), "fp8 is for TensorRT"),
        (("--precision", "int8", "--for", "trt", "--merge-groups", "auto"), "times on a CPU"),
        (("--onnx", "somewhere"), "--onnx is what to start from"),
    ],
)
def test_options_that_do_not_go_together(
    args: tuple[str, ...], says: str, export: Any, tmp_path: Path
) -> None:
    result = export("--format", "onnx", "--weights", "digits", *args, "--output", "out")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_given_is_the_start(
    export: Callable[..., Result], digits_artifact: Artifact
) -> None:
    given = str(digits_artifact.directory)
    result = export(
        "--format",
        "onnx",
        "--onnx",
        given,
        "--precision",
        "int8",
        "--output",
        "q",
        "--json",
        "q.json",
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads(Path("q.json").read_text())
    assert manifest["parent_sha256"] == digits_artifact.manifest.file_sha256
    again = export("--format", "onnx", "--onnx", "q", "--precision", "fp16", "--output", "r")
    assert again.exit_code == BadInput.exit_code
    assert "quantized already" in again.output
    ir = export("--format", "openvino", "--onnx", "q", "--precision", "bf16", "--output", "s")
    assert ir.exit_code == BadInput.exit_code
    same = export("--format", "openvino", "--onnx", given, "--precision", "fp32", "--output", "t")
    assert same.exit_code == 0, same.output


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_openvinos_ir_is_made_at_the_precision(
    precision: str, export: Callable[..., Result]
) -> None:
    result = export(
        "--format", "openvino", "--weights", "digits", "--precision", precision, "--output", "ir"
    )
    assert result.exit_code == 0, result.output
    manifest = read_artifact(Path("ir")).manifest
    assert manifest.precision == precision
    assert manifest.check is not None
    assert manifest.check.backend == "openvino"


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("precision", "share"),
    [("bf16", "bfloat16 in 100.0%"), ("int8", "in 99.8%"), ("fp8", "float8_e4m3fn in 84.6%")],
)
def test_engines_are_built_at_the_precision(
    precision: str, share: str, export: Callable[..., Result]
) -> None:
    result = export(
        "--format", "trt-rtx", "--weights", "digits", "--precision", precision, "--output", "engine"
    )
    assert result.exit_code == 0, result.output
    assert share in result.output
    manifest = read_artifact(Path("engine")).manifest
    assert manifest.precision == precision
    if manifest.quantization is not None:
        assert manifest.quantization.runtime == "trt"


def test_scales_and_stripped_weights_do_not_go_together(
    export: Callable[..., Result], rtx: object
) -> None:
    assert rtx
    result = export(
        "--format", "trt-rtx", "--weights", "digits", "--precision", "int8", "--strip-weights"
    )
    assert result.exit_code in (2, 3)
    assert len(result.output.strip().splitlines()) == 1


def test_an_edited_manifest_without_its_calibration_is_refused(derive: Derive) -> None:
    artifact = derive(ExportRequest(precision="int8"), check=False)
    path = artifact.directory / "manifest.json"
    for change in ({"quantization": None}, {"precision": "fp32"}):
        path.write_text(json.dumps(json.loads(artifact.manifest.to_json()) | change))
        with pytest.raises(BadArtifact, match="quantization record"):
            read_artifact(artifact.directory)


# --- what a manifest claims, held against the bytes
# ---------------------------------------------------------------


def edited(artifact: Artifact, folder: Path, **changes: Any) -> Path:
    """A copy with another manifest."""
    shutil.copytree(artifact.directory, folder)
    manifest = json.loads(artifact.manifest.to_json()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_precision_that_the_bytes_do_not_have_is_refused(
    derive: Derive, digits_artifact: Artifact, tmp_path: Path, export: Callable[..., Result]
) -> None:
    real = derive(ExportRequest(precision="int8"))
    record = json.loads(real.manifest.to_json())["quantization"]
    claims = {
        "fp16": edited(digits_artifact, tmp_path / "a", precision="fp16"),
        "int8": edited(digits_artifact, tmp_path / "b", precision="int8", quantization=record),
        "fp32": edited(real, tmp_path / "c", precision="fp32", quantization=None),
    }
    for name, path in claims.items():
        for command, args in ((parity, ["--artifact", str(path)]), (main, ["inspect", str(path)])):
            result = CliRunner().invoke(command, args)
            assert result.exit_code == BadArtifact.exit_code, (name, result.output)
            assert f"says {name}, and the weights of" in result.output
        for target in ("openvino", "trt-rtx"):
            result = export("--format", target, "--onnx", str(path), "--output", "laundered")
            assert result.exit_code in (BadArtifact.exit_code, 3), result.output
            assert not Path("laundered").exists()
    for name in RECIPES:
        check_onnx_precision(derive(RECIPES[name], force=True))


def test_a_quantized_file_that_lost_accuracy_since_is_caught(derive: Derive) -> None:
    """Beside its own arithmetic any file looks well; it is held against what it lost when it was
    made.
    """
    artifact = derive(ExportRequest(precision="int8"))
    assert CliRunner().invoke(parity, ["--artifact", str(artifact.directory)]).exit_code == 0
    proto = onnx.load(artifact.path)
    scale = next(t for t in proto.graph.initializer if t.name == "layer1.0.conv3.weight_scale")
    scale.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(0.5), scale.name)
    )
    artifact.path.write_bytes(proto.SerializeToString())
    manifest = json.loads(artifact.manifest.to_json())
    manifest |= {
        "file_sha256": file_sha256(artifact.path),
        "file_size_bytes": artifact.path.stat().st_size,
    }
    (artifact.directory / "manifest.json").write_text(json.dumps(manifest))
    result = CliRunner().invoke(parity, ["--artifact", str(artifact.directory)])
    assert result.exit_code == GateFailed.exit_code, result.output
    assert "max error" in result.output


@pytest.mark.parametrize(
    "name",
    [
        "int8",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("int8 for openvino", "fp8", "bf16")
        ),
    ],
)
def test_pixels_and_an_open_batch_go_with_every_precision(
    name: str, digits: Weights, derive: Derive, tmp_path: Path
) -> None:
    parent = export_onnx(digits, tmp_path / "pixels", bake_preprocessing=True, check=False)
    manifest = derive(RECIPES[name], parent).manifest
    assert manifest.check is not None
    assert (manifest.inputs[0].dtype, manifest.inputs[0].shape[0]) == ("uint8", None)


def test_inspect_tells_of_files_that_nothing_here_runs(derive: Derive) -> None:
    artifact = derive(RECIPES["fp8"], check=False)
    result = CliRunner().invoke(main, ["inspect", str(artifact.directory)])
    assert result.exit_code == 0, result.output
    assert "not reported: openvino does not run fp8" in result.output
    refused = CliRunner().invoke(
        main, ["inspect", str(artifact.directory), "--require-delivered", "0.5"]
    )
    assert refused.exit_code == GateFailed.exit_code


def test_a_live_model_does_not_speak_for_a_file(digits_artifact: Artifact) -> None:
    arguments = ["inspect", str(digits_artifact.directory), "--backend", "torch"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    result = CliRunner().invoke(main, [*arguments, "--require-delivered", "0.9"])
    assert result.exit_code == 2
    assert "does not look at the file" in result.output
