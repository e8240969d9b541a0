from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from fakes.package import fake_package
from fakes.tuned import search
from resnext.artifact.manifest import (
    BatchRange,
    CheckRecord,
    Manifest,
    WeightsRecord,
    read_manifest,
)
from resnext.artifact.specs import TensorSpec
from resnext.images.preprocessing import default_preprocessing
from resnext.machine.environment import Environment
from resnext.machine.nvml import Gpu
from resnext.network.config import VARIANTS, variant
from resnext.verify.batches.laws import Integrity
from resnext.verify.parity import Parity
from resnext.verify.verdict import DeliveredRecord, TimingRecord, Verdict
from resnext.weights.spec import load_weights
from resnext_bench.record import Row
from resnext_bench.result import Run, read_run
from resnext_bench.stats import Timing, derive
from resnext_bench.tune.result import Tuned

SCHEMAS = Path(__file__).parents[3] / "docs" / "schema"
MODELS: dict[str, type[BaseModel]] = {
    "manifest-1.json": Manifest,
    "run-1.json": Run,
    "tune-1.json": Tuned,
    "verdict-1.json": Verdict,
}


def manifest(model: str = "resnext50_32x4d", check: CheckRecord | None = None) -> Manifest:
    config = variant(model)
    return Manifest(
        kind="onnx",
        file="model.onnx",
        file_sha256="a" * 64,
        file_size_bytes=1,
        model=model,
        config=config,
        weights=WeightsRecord(source="seeded", sha256="b" * 64),
        precision="fp32",
        inputs=(
            TensorSpec(
                name="input", dtype="float32", shape=(None, config.in_channels, *config.input_size)
            ),
        ),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(None, config.num_classes)),),
        batch=BatchRange(min=1, opt=8, max=None),
        preprocessing=default_preprocessing(config),
        opset=20,
        versions={"torch": "2"},
        created="2020-01-01T00:00:00+00:00",
        check=check,
    )


def stored_run() -> Run:
    rounds = ((1000, 1100), (1050, 990))
    parity = Parity(
        passed=True,
        failures=(),
        rows=2,
        max_abs=0.0,
        mean_abs=0.0,
        max_relative=0.0,
        mean_relative=0.0,
        max_error=0.0,
        mean_error=0.0,
        min_cosine=1.0,
        top1=1.0,
        top1_low=0.1,
        top5=1.0,
    )
    row = Row(
        backend="torch",
        batch=1,
        status="valid",
        timings=(
            Timing(
                boundary="host", rounds_ns=rounds, stats=derive(rounds, 1), speedup=(1.0, 0.9, 1.1)
            ),
        ),
        parity=parity,
    )
    failed = Row(backend="ort", batch=1, status="failed", reasons=("no",), exit_code=3)
    environment = Environment(
        cpu="a processor",
        physical_cores=2,
        memory_bytes=1,
        load_1min=0.0,
        governor=None,
        gpus=(Gpu(name="a GPU", memory_bytes=1, driver="1"),),
        system="Linux",
        python="3",
        packages={},
    )
    return Run(
        created="2020-01-01T00:00:00+00:00",
        model=None,
        weights=WeightsRecord(source="seeded", sha256="b" * 64),
        precision="fp32",
        duration_s=1.0,
        rounds=2,
        seed=0,
        threads=None,
        environment=environment,
        rows=(row, failed),
    )


def stored_verdict() -> Verdict:
    run = stored_run()
    assert run.rows[0].parity is not None
    digests = ("artifact_sha256", "manifest_sha256", "weights_sha256", "content_sha256")
    return Verdict(
        created="2020-01-01T00:00:00+00:00",
        toolkit="1",
        runtime="ort",
        device="cpu",
        capability="linux-x86_64 avx2",
        libraries={"onnxruntime": "1"},
        parity=run.rows[0].parity,
        integrity=Integrity(
            passed=True,
            failures=(),
            laws=(),
            backend="ort",
            quick=True,
            rounding=None,
            noise=0.0,
            contrast=1.0,
        ),
        delivered=DeliveredRecord(share=0.5, missed=(("fc", "float32"),)),
        timing=TimingRecord(batch=1, boundary="host", median_ns=1, samples=11),
        environment=run.environment,
        passed=True,
        **dict.fromkeys(digests, "a" * 64),
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_published_schema_is_that_of_the_model(name: str) -> None:
    published = json.loads((SCHEMAS / name).read_text())
    # Through JSON, which has no tuples.
    assert published == json.loads(json.dumps(MODELS[name].model_json_schema())), (
        "run docs/schema/write.py"
    )
    jsonschema.Draft202012Validator.check_schema(published)


def test_the_script_writes_the_published_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCHEMAS / "write.py"), str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in SCHEMAS.glob("*.json")
    }
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (SCHEMAS / path.name).read_bytes(), path.name


def test_every_stored_model_has_a_schema_of_its_format_version() -> None:
    for name, model in MODELS.items():
        version = model.model_fields["format_version"].default
        assert name.endswith(f"-{version}.json")


def validate(text: str, name: str) -> Any:
    raw = json.loads(text)
    jsonschema.validate(raw, json.loads((SCHEMAS / name).read_text()))
    return raw


@pytest.mark.parametrize("model", VARIANTS)
def test_a_written_manifest_fits_the_schema_and_reads_back(tmp_path: Path, model: str) -> None:
    check = CheckRecord(batches=(1, 7), backend="ort-cpu", max_error=1e-6, tolerance=1e-4)
    written = manifest(model, check)
    validate(written.to_json(), "manifest-1.json")
    (tmp_path / "manifest.json").write_text(written.to_json())
    assert read_manifest(tmp_path / "manifest.json") == written


def test_a_packages_manifest_fits_the_schema_and_reads_back(tmp_path: Path) -> None:
    written = fake_package(tmp_path, load_weights("digits")).manifest
    assert written.package is not None
    assert validate(written.to_json(), "manifest-1.json")["opset"] is None
    assert read_manifest(tmp_path / "manifest.json") == written


def test_a_stored_run_fits_the_schema_and_reads_back(tmp_path: Path) -> None:
    run = stored_run()
    validate(run.model_dump_json(), "run-1.json")
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert read_run(tmp_path / "run.json") == run


@pytest.mark.parametrize("name", MODELS)
def test_the_schema_refuses_what_the_reader_refuses(name: str) -> None:
    examples = {
        "manifest-1.json": manifest(),
        "run-1.json": stored_run(),
        "tune-1.json": Tuned.model_validate(search().model_dump()),
        "verdict-1.json": stored_verdict(),
    }
    stored: BaseModel = examples[name]
    good = validate(stored.model_dump_json(), name)
    assert MODELS[name].model_validate(good) == stored
    bad: list[dict[str, Any]] = [
        {**good, "format_version": 2},
        {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "created"},
        {**good, "weights": {"source": "x", "sha256": "short"}, "weights_sha256": "short"},
    ]
    for raw in bad:
        with pytest.raises(jsonschema.ValidationError):
            validate(json.dumps(raw), name)
        with pytest.raises(ValueError, match="validation error"):
            MODELS[name].model_validate_json(json.dumps(raw))
