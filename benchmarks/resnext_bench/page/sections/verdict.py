"""What comes first: how many rows are valid, what is fastest, and what was found against rows."""

from __future__ import annotations

from resnext_bench.page.document import fact
from resnext_bench.page.entries import Entry, entries, prose, valid
from resnext_bench.page.markup import Markup, join, tag
from resnext_bench.page.scales import number
from resnext_bench.record import RunRecord
from resnext_bench.report import measuring, rounds_done, threads, verdict, warnings


def lead(run: RunRecord) -> Markup:
    """The verdict, with the numbers that matter most."""
    rows = entries(run)
    good = sum(entry.row.status == "valid" for entry in rows)
    bad = next((word for word in ("failed", "invalid") if _count(rows, word)), "valid")
    whole = bad == "valid" and bool(rows) and run.complete
    rest = ", ".join(
        f"{_count(rows, word)} {word}" for word in ("invalid", "failed") if _count(rows, word)
    )
    words = f"{good} of {len(rows)} rows valid" + (f", {rest}" if rest else "")
    sign = "\u2713" if whole else "!"
    color = bad if whole or bad != "valid" else "invalid"
    # The reasons against rows are listed below.
    standing = verdict(run).sentence.rpartition("Of the valid rows, ")[2] if good else ""
    machine = ", ".join(filter(None, (run.environment.title(), threads(run))))
    created = run.created.replace("T", " ").replace("+00:00", " UTC")
    return join(
        tag("p", f"{created}, {machine}", class_="sub"),
        tag("p", tag("span", f"{sign} {words}", class_=color), class_="verdict"),
        None
        if run.complete
        else tag("p", "This run is not finished: rows that are missing had not been judged."),
        tag("p", prose(f"{standing}.")) if standing else None,
        tag("dl", *_facts(run), class_="facts"),
        _findings(run, rows),
    )


def _facts(run: RunRecord) -> list[Markup]:
    rows = valid(run)
    facts = []
    if rows:
        least = min(entry.row.batch for entry in rows)
        quick = min((one for one in rows if one.row.batch == least), key=lambda one: one.ms)
        facts.append(fact(f"Lowest latency, batch {least}", f"{number(quick.ms)} ms", quick.series))
        most = max(rows, key=lambda one: one.images_per_s)
        speed = f"{number(most.images_per_s)} images/s"
        facts.append(fact("Highest throughput", speed, most.name))
    if run.control is not None:
        floor = run.control.noise_floor
        quiet = "speedups are shown" if run.control.quiet else "no speedups are shown"
        facts.append(fact("Noise floor", "unknown" if floor is None else f"{floor:.1%}", quiet))
    more = f"at least {run.duration_s:g} s a row"
    facts.append(fact("Rounds", rounds_done(run), more))
    return facts


def _findings(run: RunRecord, rows: list[Entry]) -> Markup:
    against = [
        tag("li", tag("b", entry.name), ": ", prose(reason), class_=f"is-{entry.row.status}")
        for entry in rows
        for reason in entry.row.reasons
    ]
    caveats = [tag("li", prose(line)) for line in warnings(run)]
    how = [line[:1].upper() + line[1:] for line in measuring(run)]
    return join(
        tag("ul", *against, class_="findings") if against else None,
        tag("p", prose(". ".join(how) + "."), class_="note") if how else None,
        tag(
            "details",
            tag("summary", f"{len(caveats)} warning{'s' * (len(caveats) > 1)}"),
            tag("ul", *caveats, class_="findings"),
        )
        if caveats
        else None,
    )


def _count(rows: list[Entry], status: str) -> int:
    return sum(entry.row.status == status for entry in rows)
