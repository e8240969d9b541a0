"""The page of a search for bad blocks: the verdict, what each block loses, what was built."""

from __future__ import annotations

from pathlib import Path

from resnext_bench.stored import has_field
from resnext_export import Bisection

from . import marks
from .chart import Axis, Strip, strips
from .document import Section, document, fact, table
from .entries import prose
from .markup import Markup, join, tag
from .scales import Scale, logarithmic

_HEIGHT = 12.0
_CLASSES = {"passes": ("valid", "\u2713"), "mended": ("valid", "\u2713")}


def bisection_page(found: Bisection) -> str:
    """The page of ``found``: one file of HTML. Sections whose data it lacks are left out."""
    sections = (_blocks(found), _builds(found), _command(found))
    title = f"Bad blocks of {found.artifact}"
    return document(title, _lead(found), [one for one in sections if one is not None])


def is_bisection(path: Path) -> bool:
    """Whether a file is meant to be a stored search for bad blocks.

    Raises:
        BadInput: it cannot be read.
    """
    return has_field(path, "attempts")


def _lead(found: Bisection) -> Markup:
    kind, sign = _CLASSES.get(found.outcome, ("failed", "\u2715"))
    created = found.created.replace("T", " ").replace("+00:00", " UTC")
    mends = ", ".join((*found.changes, *(f"{name} float" for name in found.keep)))
    share = sum(each.macs_share for each in found.damage if each.kept)
    agreement = "" if found.agreement is None else f"top-1 agreement {found.agreement:.2%}"
    facts = [
        fact("Gate", found.gate, agreement),
        fact("Judged on", found.runtime, f"{found.images} {found.source}"),
        fact("Builds", str(found.builds), "the float network not counted"),
    ]
    if mends:
        work = f"{share:.1%} of the multiply-accumulates in float"
        facts.append(fact("Mended by", mends, work if found.keep else "no layer is kept in float"))
    if found.price is not None:
        ends = f"95 %: {found.price.low:.2f} to {found.price.high:.2f}"
        facts.append(fact("Times the original's time", f"{found.price.ratio:.2f}x", ends))
    price = None
    if found.price is not None:
        price = f"{found.price}."
    elif found.outcome == "mended":
        price = f"The price was not measured: the time of {found.runtime} means nothing."
    return join(
        tag("p", f"{created}, {found.precision}, sha256 {found.artifact_sha256}", class_="sub"),
        tag("p", tag("span", f"{sign} {found.word}", class_=kind), class_="verdict"),
        tag("p", prose(f"{found.reason}.")),
        tag("dl", *facts, class_="facts"),
        tag("p", price, class_="note") if price else None,
    )


def _blocks(found: Bisection) -> Section | None:
    """The bars and their numbers; None if no block was measured."""
    if not found.damage:
        return None
    scale = logarithmic(each.error for each in found.damage if each.error is not None)
    rows = [_strip(found, number, scale) for number in range(len(found.damage))]
    first = found.damage[0]
    chart = strips(
        "blocks-chart",
        "What each block loses alone",
        f"{first.block} loses most: {_error(first.error)}. {len(found.damage)} blocks.",
        Axis(scale, "error of the logits with this block alone in low precision"),
        rows,
        _HEIGHT,
    )
    numbers = table(
        "Blocks",
        ("block", "error alone", "share of work", "in the mended artifact"),
        [
            [each.block, _error(each.error), f"{each.macs_share:.1%}", _fate(found, each.kept)]
            for each in found.damage
        ],
        left=(0, 3),
        numbers=range(len(found.damage)),
        sortable=True,
    )
    note = (
        "Root mean square of the logits' error if one block is in low precision and all others in"
        " float, over that of the reference, on a logarithmic axis. The gate is no line here: it"
        " judges the whole network, and what was built shows where it lies."
    )
    return Section("blocks", "What each block loses", join(chart, numbers), note)


def _strip(found: Bisection, number: int, scale: Scale) -> Strip:
    each = found.damage[number]
    share = 1.0 if each.error is None else scale.fraction(each.error)
    bar = marks.bar(share, 0, _HEIGHT, "accent" if each.kept else "muted")
    text = f"{_error(each.error)}{', stays float' * each.kept}"
    hint = f"{each.block}\n{text}\n{each.macs_share:.1%} of the multiply-accumulates"
    return Strip(each.block, text, bar, number, hint)


def _error(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.2e}"


def _fate(found: Bisection, kept: bool) -> str:
    if found.outcome != "mended":
        return "-"
    return "stays float" if kept else found.precision


def _builds(found: Bisection) -> Section:
    """Everything that was judged, in order."""
    rows = [
        [str(number), each.what if number else "the artifact", *_judged(found, number)]
        for number, each in enumerate(found.attempts)
    ]
    body = table(
        "Builds",
        ("build", "what was changed", "gate", "top-1 agrees", "mean error", "what it missed"),
        rows,
        left=(1, 2, 5),
    )
    note = "In the order of the search; 0 is the artifact as it was. Each is a real export."
    return Section("builds", "What was built", body, note)


def _judged(found: Bisection, number: int) -> list[Markup | str]:
    each = found.attempts[number]
    kind, text = ("valid", "meets it \u2713") if each.passed else ("invalid", "misses it !")
    return [
        tag("span", text, class_=f"status {kind}"),
        "-" if each.top1 is None else f"{each.top1:.2%}",
        "-" if each.mean_error is None else f"{each.mean_error:.2e}",
        prose("; ".join(each.failures)),
    ]


def _command(found: Bisection) -> Section | None:
    if not found.command:
        return None
    body = tag("pre", tag("code", found.command), tabindex="0")
    return Section("commands", "The mended artifact again", body)
