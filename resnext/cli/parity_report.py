"""The outcome of ``resnext-parity`` on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .app import as_flags

if TYPE_CHECKING:
    from resnext.artifact.manifest import Manifest
    from resnext.verify.parity import InputKind, Limit, Parity

#: Wide enough for every table, so that nothing is cut.
_WIDTH = 160


def report(outcome: Parity, manifest: Manifest, requested: int = 0) -> list[str]:
    """Lines: how many images, the gate, its limits, the kinds of input, flips by margin.

    Args:
        outcome: of the comparison.
        manifest: of the artifact.
        requested: number of images that were requested.
    """
    from resnext.verify.untrained import untrained

    lines = [f"sha256      {outcome.artifact_sha256}", f"images      {_images(outcome, requested)}"]
    lines.append(f"gate        {_gate(outcome, manifest)}")
    if outcome.max_error is None:
        return lines
    lines += [
        f"max error   {outcome.max_error:.2e} of the logits' RMS (absolute {outcome.max_abs:.2e},"
        f" relative {outcome.max_relative:.2e})",
        f"mean error  {outcome.mean_error:.2e} (absolute {outcome.mean_abs:.2e}, relative"
        f" {outcome.mean_relative:.2e})",
    ]
    limits = outcome.limits
    if (finding := untrained(manifest)) is None:
        lines.append(
            f"top-1       agrees on {outcome.top1:.2%} (at least {outcome.top1_low:.2%} with 95 %"
            f" confidence), top-5 on {outcome.top5:.2%}"
        )
    else:
        lines.append(f"warning     {as_flags(str(finding))}")
        limits = tuple(limit for limit in limits if limit.name != "top1" or not limit.passed)
    own = "its own graph loses" if manifest.quantization else f"{manifest.numerics} itself loses"
    lines += _table(
        ("limit", "actual", "allowed", "would pass", ""),
        [_limit(limit, own) for limit in limits],
    )
    lines += _table(
        ("input", "images", "max error", "allowed", "used", ""), map(_input, outcome.inputs)
    )
    if outcome.flips is not None:
        flips = outcome.flips
        ends = [f"< {each.below:g}" if each.below else "above" for each in flips.by_margin]
        lines += _table(
            ("reference's margin", *ends),
            [
                ("images", *(str(each.images) for each in flips.by_margin)),
                ("top-1 flips", *(str(each.flips) for each in flips.by_margin)),
            ],
        )
        lines.append(
            f"flips beyond the noise (margin {flips.noise:.1e}): {flips.clear_flips} of"
            f" {flips.clear_images}, rate at most {flips.clear_rate_high:.2%} with 95 % confidence"
        )
    return lines


def fewer_images(source: str, compared: int, requested: int) -> str | None:
    """A warning if fewer images were compared than requested: only a source has an end."""
    if compared >= requested:
        return None
    return (
        f"warning: {source} has {compared} images, so that no more were compared; {requested} were"
        " requested"
    )


def _images(outcome: Parity, requested: int) -> str:
    ordinary, *extreme = outcome.inputs
    text = f"{outcome.rows} {ordinary.name}"
    if outcome.rows < requested:
        text += f" (all that it has; {requested} were requested)"
    if extreme:
        text += f", {sum(each.images for each in extreme)} adversarial"
    if out := [each.name for each in extreme if each.left_out]:
        text += f"; left out, since the precision itself overflows there: {', '.join(out)}"
    return text


def _gate(outcome: Parity, manifest: Manifest) -> str:
    text = f"{outcome.gate}, {manifest.numerics}"
    if outcome.loss is None:
        return text
    text += f", which loses {outcome.loss:.1e} by itself"
    if outcome.max_error and outcome.error_ratio:
        counted = outcome.max_error / outcome.error_ratio
        if counted > 1.01 * outcome.loss:
            text += f"; {counted:.1e} counts, four roundings of the largest logit"
    return text


def _limit(limit: Limit, own: str) -> tuple[str, ...]:
    label, form = {
        "max_error": ("max error / RMS of the logits", ".2e"),
        "error_ratio": (f"max error / what {own}", ".2f"),
        "mean_ratio": (f"mean error / what {own}", ".2f"),
        "min_cosine": ("cosine, smallest", ".7f"),
        "top1": ("top-1 agreement, ties aside", ".2%"),
    }[limit.name]
    bound = "at least" if limit.at_least else "at most"
    values = (format(limit.actual, form), f"{bound} {limit.allowed:{form}}")
    return (label, *values, format(limit.would_pass, form), _verdict(passed=limit.passed))


def _input(kind: InputKind) -> tuple[str, ...]:
    if kind.max_error is None:
        word = (
            "left out" if kind.left_out else "finite" if kind.finite else "FAILS: NaN or infinite"
        )
        return (kind.name, str(kind.images), "-", "-", "-", word)
    return (
        kind.name,
        str(kind.images),
        f"{kind.max_error:.1e}",
        f"{kind.allowed:.1e}",
        f"{kind.max_error / kind.allowed:.0%}",
        _verdict(passed=kind.max_error <= kind.allowed)
        + (f", worst: image {kind.worst}" if kind.images > 1 else ""),
    )


def _verdict(*, passed: bool) -> str:
    return "ok" if passed else "FAILS"


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A blank line, and a table with numbers aligned to the right."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        left = index == 0 or not heading
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    printed = StringIO()
    Console(file=printed, width=_WIDTH, highlight=False, markup=False).print(table)
    return ["", *(line.rstrip() for line in printed.getvalue().splitlines())]
