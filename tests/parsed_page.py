"""A page of HTML as tests look at it."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

#: Elements without an end.
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, "elements are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words += data

    def ids(self) -> list[str]:
        """Every id."""
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    def counts(self) -> Counter[str]:
        """Elements by name."""
        return Counter(name for name, _ in self.elements)

    def sections(self) -> list[str]:
        """Names of the sections, in order."""
        return [str(attributes["id"]) for name, attributes in self.elements if name == "section"]
