"""Sections as one file of HTML that needs no network and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from resnext.version import __version__

from . import marks
from .markup import Markup, join, tag


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        name: its anchor, as an HTML id.
        title: heading.
        body: content.
        note: how to read it, one or two sentences; "" for none.
        wide: on a wide page it takes both columns.
    """

    name: str
    title: str
    body: Markup
    note: str = ""
    wide: bool = True


def document(title: str, lead: Markup, sections: Sequence[Section]) -> str:
    """A whole page.

    Args:
        title: of the document; text.
        lead: what comes first, below the title.
        sections: what follows, with a table of contents.
    """
    style, script = _asset("style.css"), _asset("script.js")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"resnext-toolkit {__version__}"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    contents = [tag("li", tag("a", one.title, href=f"#{one.name}")) for one in sections]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        marks.definitions(),
        tag(
            "header",
            tag("h1", title),
            lead,
            tag("nav", tag("ul", *contents), aria_label="Sections") if contents else None,
        ),
        tag("main", *map(_section, sections), id="main"),
        tag("footer", tag("p", f"Written by resnext-toolkit {__version__}.")),
        tag("script", Markup(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def table(
    name: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Markup | str]],
    *,
    left: Sequence[int] = (0,),
    numbers: Sequence[int] | None = None,
    sortable: bool = False,
) -> Markup:
    """A table that scrolls sideways by itself on a narrow page.

    Args:
        name: caption, for people who do not see the page.
        headings: of the columns.
        rows: cells; the first of each is the row's heading.
        left: columns that are aligned to the left.
        numbers: for each row its number, by which charts refer to it; None for a table without.
        sortable: let the script sort it; needs no more than cells that begin with their numbers.
    """
    sides = ["left" if index in left else "right" for index in range(len(headings))]
    body = [
        tag(
            "tr",
            *(
                tag(
                    "td" if index else "th",
                    cell,
                    class_=sides[index],
                    scope=None if index else "row",
                )
                for index, cell in enumerate(row)
            ),
            data_row=None if numbers is None else numbers[place],
        )
        for place, row in enumerate(rows)
    ]
    heads = [
        tag("th", heading, scope="col", class_=side)
        for heading, side in zip(headings, sides, strict=True)
    ]
    whole = tag(
        "table",
        tag("caption", name, class_="unseen"),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_="sortable" if sortable else None,
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=name)


def fact(name: str, value: str, more: str) -> Markup:
    """A number that matters, with its name above and a remark below; for ``dl.facts``."""
    return tag("div", tag("dt", name), tag("dd", value, tag("small", more)))


def _section(section: Section) -> Markup:
    return tag(
        "section",
        tag("h2", section.title, id=f"{section.name}-heading"),
        tag("p", section.note, class_="note") if section.note else None,
        section.body,
        id=section.name,
        class_="wide-section" if section.wide else None,
        aria_labelledby=f"{section.name}-heading",
    )


@cache
def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The source of a Content-Security-Policy that allows exactly ``text``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def paragraphs(*lines: str) -> Markup:
    """Each line as a paragraph."""
    return join(*(tag("p", line) for line in lines))
