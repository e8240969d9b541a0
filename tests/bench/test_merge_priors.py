"""What is known of merged groups on other machines: each number is its run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.pages import RESULTS
from resnext.network.config import VARIANTS
from resnext_bench import merge_priors
from resnext_bench.merge_priors import BATCH, PRIORS, Gain, Prior, prior_of
from resnext_bench.result import read_run
from resnext_bench.stats import ratio_interval

#: Names of a run's candidates: the unmerged one, and the others by what was merged.
CANDIDATES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "2026-11-23-epyc-25-17-vnni-2cores-resnext50-int8.json": (
        "rn-int8-ort",
        {"32": "rn-int8-ort-merged32"},
    ),
}


def faults(prior: Prior) -> Iterator[str]:
    """What a prior says that its run does not."""
    run = read_run(RESULTS / prior.run)
    plain, names = CANDIDATES.get(prior.run, (f"{prior.precision}-plain", {}))
    rows = {row.variant: row for row in run.rows if row.backend == prior.backend}
    base = rows[plain].timings[0]
    if prior.processor not in run.environment.cpu or not run.created.startswith(prior.day):
        yield "another machine or day"
    if run.model != "resnext50_32x4d" or VARIANTS[run.model].cardinality != 32:
        yield "another network"
    gains = {str(width): gain for width, gain in prior.gains.items()} | dict(prior.stages)
    for merge, gain in gains.items():
        kind = "all-" if merge.isdigit() else ""
        row = rows[names.get(merge, f"{prior.precision}-{kind}{merge.replace('=', '-')}")]
        found = ratio_interval(base.quiet_ns, row.timings[0].quiet_ns)
        if row.status != "valid" or row.batch != BATCH or found is None:
            yield f"{merge}: not a valid row"
        elif gain != tuple(round(end, 2) for end in found):
            yield f"{merge}: {gain}, and the run has {tuple(found)}"


@pytest.mark.parametrize(
    "prior", [each for each in PRIORS if each.run], ids=lambda each: f"{each.backend} {each.run}"
)
def test_every_number_is_that_of_its_run_and_a_planted_one_is_seen(prior: Prior) -> None:
    assert list(faults(prior)) == []
    width, (estimate, low, high) = next(iter(prior.gains.items()))
    wrong = {**prior.gains, width: (estimate + 0.01, low, high)}
    assert len(list(faults(replace(prior, gains=wrong)))) == 1
    assert len(list(faults(replace(prior, processor="amx_int8")))) == 1
    assert len(list(faults(replace(prior, day="2026-11-01")))) == 1


def test_a_kind_has_one_row_and_what_has_no_run_names_no_interval() -> None:
    kinds = [(each.processor, each.backend, each.precision) for each in PRIORS]
    assert len(set(kinds)) == len(kinds)
    assert {each.processor for each in PRIORS} == {"amx_int8", "avx512_vnni"}
    for each in PRIORS:
        intervals = [gain[1:] for gain in each.gains.values()]
        assert intervals
        assert all((None in ends) == (not each.run) for ends in intervals)


@pytest.mark.parametrize(
    ("gains", "width"),
    [
        ({16: (1.30, 1.28, 1.32), 32: (1.31, 1.29, 1.33)}, 16),  # the same: fewer zeros
        ({16: (1.20, 1.18, 1.22), 32: (1.31, 1.29, 1.33)}, 32),
        ({16: (1.10, 1.01, 1.19)}, None),  # not told apart from unmerged
        ({16: (0.99, 0.98, 1.00), 32: (0.90, 0.89, 0.91)}, None),
        ({16: (1.17, None, None)}, 16),
        ({16: (1.01, None, None)}, None),
    ],
)
def test_the_width_is_the_narrowest_of_the_fastest(
    gains: Mapping[int, Gain], width: int | None
) -> None:
    prior = Prior("avx2", "openvino", "int8", gains, "a machine", "2026-11-28")
    assert prior.width == width
    assert prior.result.startswith("no faster") == (width is None)


@pytest.mark.parametrize(
    ("features", "width"),
    [
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, 16),
        ({"avx2", "avx512f", "avx512_vnni"}, None),
        ({"avx2"}, None),
        (set(), None),
    ],
)
def test_a_processor_is_of_the_kind_of_its_widest_extension(
    features: set[str], width: int | None
) -> None:
    found = prior_of(features, "openvino", "int8")
    assert (found is None) == ("avx512_vnni" not in features)
    assert (found and found.width) == width
    assert prior_of(features, "pt2", "int8") is None
    assert merge_priors.prior_of(features, "openvino", "fp16") is None


KINDS = {"avx512_vnni": "EPYC", "amx_int8": "Xeon"}
TITLES = {"ort-cpu": "ONNX Runtime", "openvino": "OpenVINO"}


def rows_of(page: str) -> list[list[str]]:
    """The cells of every row of a table."""
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]


def shown(gain: Gain) -> str:
    """As the page has it."""
    estimate, low, high = gain
    return f"{estimate:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def unsaid(prior: Prior, page: str) -> Iterator[str]:
    """Gains that the page does not show where they belong, and others that it does."""
    whole = [shown(prior.gains[width]) if width in prior.gains else "" for width in (16, 32, 64)]
    found = [
        row
        for row in rows_of(page)
        if KINDS[prior.processor] in row[0] and row[1] == TITLES[prior.backend]
    ]
    if [row[2:5] for row in found] != [whole] or prior.day not in found[0][5]:
        yield f"{prior.backend} on {prior.processor}"
    for merge, gain in prior.stages.items():
        if f"| {merge.replace('=', ' to ')} | {shown(gain)} |" not in page:
            yield f"{prior.backend} on {prior.processor}, {merge}"


@pytest.mark.parametrize("prior", PRIORS, ids=lambda each: f"{each.processor} {each.backend}")
def test_the_documents_have_the_same_numbers(prior: Prior) -> None:
    docs = Path(__file__).parents[2] / "docs" / "concepts" / "grouped-convolutions.md"
    page = docs.read_text(encoding="utf-8")
    assert list(unsaid(prior, page)) == []
    other: Gain = (1.5, 1.4, 1.6)
    gains, stages = dict.fromkeys(prior.gains, other), dict.fromkeys(prior.stages, other)
    wrong = replace(prior, gains=gains, stages=stages)
    assert len(list(unsaid(wrong, page))) == 1 + len(stages)
    assert len(list(unsaid(replace(prior, day="yesterday"), page))) == 1
