"""A quantized network of seeded weights: its accuracy means nothing, and every report says so."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from fakes.calm import calm
from resnext.artifact.files import Artifact, read_artifact
from resnext.cli.parity import main as parity
from resnext.verify.untrained import CODE, untrained
from resnext_bench import benchmark
from resnext_bench.report import markdown
from resnext_export.cli.export import main as export

SAID = "the weights are seeded, not trained, so the accuracy of this int8 file means nothing"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Result]:
    folder = tmp_path_factory.mktemp("untrained") / "int8"
    result = CliRunner().invoke(
        export,
        [
            *("--format", "onnx", "--model", "resnext11_8x4d_digits", "--weights", "seeded:3"),
            *("--precision", "int8", "--calibration", "random", "--calibration-images", "16"),
            *("--output", str(folder)),
        ],
    )
    assert result.exit_code == 0, result.output
    return read_artifact(folder), result


def test_the_export_says_so(exported: tuple[Artifact, Result]) -> None:
    assert f"warning   {SAID}" in exported[1].stdout
    assert "to judge accuracy, export with trained weights" in exported[1].stdout


def test_the_parity_command_says_so_instead_of_the_agreement(
    exported: tuple[Artifact, Result],
) -> None:
    result = CliRunner().invoke(parity, ["--artifact", str(exported[0].directory)])
    assert f"warning     {SAID}" in result.stdout
    assert "top-1       agrees" not in result.stdout
    assert "top-1 agreement" not in result.stdout


def test_the_benchmark_says_so_and_its_time_stays_valid(
    exported: tuple[Artifact, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(monkeypatch)  # a busy machine
    run = benchmark(exported[0], batch=4, duration=0.05, rounds=4, warmup=0, precision_target=None)
    (row,) = run.rows
    assert row.status == "valid", row.reasons
    assert SAID in row.warnings[CODE]
    assert row.parity is not None
    assert "adversarial" not in str(row.parity.failures)
    text = run.table()
    assert f"batch 4: warning: {SAID}" in text
    line = next(each for each in text.splitlines() if each.startswith("VALID "))
    assert "%" not in line
    assert "## Warnings" in markdown(run)


@pytest.mark.parametrize(
    ("source", "quantized", "warns"),
    [
        ("seeded", True, True),
        ("seeded:4", True, True),
        ("seeded", False, False),
        ("digits", True, False),
        ("seeded_by_me.pth", True, False),
    ],
)
def test_only_seeded_and_quantized_counts(
    exported: tuple[Artifact, Result], source: str, quantized: bool, warns: bool
) -> None:
    manifest = exported[0].manifest
    manifest = manifest.model_copy(
        update={
            "weights": manifest.weights.model_copy(update={"source": source}),
            "quantization": manifest.quantization if quantized else None,
        }
    )
    assert (untrained(manifest) is not None) == warns
