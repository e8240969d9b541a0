"""What comes first: the pick, with the numbers that matter most."""

from __future__ import annotations

from resnext.errors import printable
from resnext_bench.page.document import fact
from resnext_bench.page.entries import prose
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.tune import amounts, fallen
from resnext_bench.tune.record import CandidateRecord, TuneRecord
from resnext_bench.tune.standing import candidate, disagreements, doubts, over_baseline
from resnext_bench.tune.verdict import race, verdict

_CLASSES = {
    "PICKED": ("valid", "\u2713"),
    "IN DOUBT": ("invalid", "!"),
    "SO FAR": ("invalid", "!"),
    "NONE": ("failed", "\u2715"),
}


def lead(record: TuneRecord) -> Markup:
    """The verdict."""
    first = verdict(record)
    kind, sign = _CLASSES[first.word]
    created = record.created.replace("T", " ").replace("+00:00", " UTC")
    pick = candidate(record, record.pick)
    said = doubts(record)  # in the sentence
    against = [
        tag("li", prose(line), class_="is-invalid")
        for line in disagreements(record)
        if line not in said
    ]
    if pick is None:
        against += [
            tag("li", f"nearest: {line}", class_="is-invalid") for line in fallen.nearest(record)
        ]
    named = "" if pick is None else f"{printable(pick.name)}: "
    words = f"{sign} {first.word}: {named}".rstrip(": ")
    return join(
        tag("p", f"{created}, {record.environment.title()}", class_="sub"),
        tag("p", tag("span", words, class_=kind), class_="verdict"),
        tag("p", prose(f"{first.sentence.removeprefix(named)}.")),
        tag("dl", *_facts(record, pick), class_="facts") if pick is not None else None,
        tag("ul", *against, class_="findings") if against else None,
        tag("p", f"{race(record)}.", class_="note"),
    )


def _facts(record: TuneRecord, pick: CandidateRecord) -> list[Markup]:
    facts = [
        fact("Throughput", f"{amounts.rate(pick.images_per_s)} images/s", f"batch {pick.batch}"),
        fact("Latency of a batch", f"{amounts.milliseconds(pick.p50_ns)} ms", _p99(pick)),
    ]
    standing = over_baseline(record)
    if standing is not None and standing.ratio is not None:
        ends = " to ".join(map(amounts.times, standing.ratio[1:]))
        facts.append(fact("Times the baseline", standing.speedup, f"{ends}, {standing.name}"))
    if pick.size_bytes is not None:
        facts.append(fact("Size", f"{amounts.megabytes(pick.size_bytes)} MB", pick.precision))
    if pick.accuracy is not None:
        agrees = f"agrees {pick.accuracy.agreement:.2%}"
        facts.append(fact("Top-1", f"{pick.accuracy.top1:.2%}", agrees))
    if pick.gates:
        kept = sum(gate.passed for gate in pick.gates)
        facts.append(fact("Gates", f"{kept} of {len(pick.gates)} kept", ""))
    return facts


def _p99(pick: CandidateRecord) -> str:
    if pick.p99_ns is None:
        return "p99 not known: too few runs"
    return f"p99 at most {amounts.milliseconds(pick.p99_ns)} ms"
