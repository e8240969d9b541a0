"""What the two common schemas of JUnit XML require, as a check: Ant's (the JUnit-Schema project,
Apache-2.0), the stricter one, and that of Jenkins' xUnit plugin (MIT).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from xml.etree.ElementTree import Element, fromstring

_TEXT = r"(?s).*"
_COUNT = r"\d+"
#: Patterns of the attributes of each element; all but those of `_OPTIONAL` are required.
_ATTRIBUTES = {
    "testsuites": {},
    "testsuite": {
        "id": _COUNT,
        "name": r"\S.*",
        "package": _TEXT,
        "hostname": r"\S.*",
        "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",  # of Ant: without a time zone
        "tests": _COUNT,
        "failures": _COUNT,
        "errors": _COUNT,
        "skipped": _COUNT,
        "time": r"\d{1,3}(\d{3})*(\.\d{0,3})?",  # of Jenkins: at most three decimals
    },
    "properties": {},
    "property": {"name": r"\S.*", "value": _TEXT},
    "testcase": {"name": _TEXT, "classname": _TEXT, "time": r"\d+(\.\d+)?"},
    "skipped": {"message": _TEXT},
    "failure": {"message": _TEXT, "type": _TEXT},
    "error": {"message": _TEXT, "type": _TEXT},
    "system-out": {},
    "system-err": {},
}
_OPTIONAL = {"skipped", "message"}
#: The children of each element, in their order; elements without any hold text.
_CHILDREN = {
    "testsuites": r"(testsuite )*",
    "testsuite": r"properties (testcase )*system-out system-err ",
    "properties": r"(property )*",
    "property": "",
    "testcase": r"(skipped |failure |error )?",
}


def problems(text: str) -> list[str]:
    """What is wrong with a report; empty if nothing is.

    Raises:
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    root = fromstring(text)
    if root.tag != "testsuites":
        return [f"the root is {root.tag}"]
    return [line for element in root.iter() for line in (*_form(element), *_counts(element))]


def _form(element: Element) -> Iterator[str]:
    tag = element.tag
    if tag not in _ATTRIBUTES:
        yield f"{tag} is unknown"
        return
    patterns = _ATTRIBUTES[tag]
    for name in sorted({*patterns} - _OPTIONAL - {*element.keys()}):
        yield f"{tag} has no {name}"
    for name, value in element.items():
        if name not in patterns:
            yield f"{tag} has {name}"
        elif not re.fullmatch(patterns[name], value):
            yield f"{name} of {tag} is {value!r}"
    children = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(_CHILDREN.get(tag, ""), children):
        yield f"{tag} contains {children.strip() or 'nothing'}"
    texts = [element.text, *(child.tail for child in element)]
    if tag in _CHILDREN and any(text and text.strip() for text in texts):
        yield f"{tag} contains text"


def _counts(element: Element) -> Iterator[str]:
    if element.tag != "testsuite":
        return
    cases = element.findall("testcase")
    outcomes = Counter(child.tag for case in cases for child in case)
    for name, count in {
        "tests": len(cases),
        "failures": outcomes["failure"],
        "errors": outcomes["error"],
        "skipped": outcomes["skipped"],
    }.items():
        if element.get(name) != str(count):
            yield f"{name} is {element.get(name)}, and there are {count}"
    names = Counter((case.get("classname"), case.get("name")) for case in cases)
    yield from (f"{name} is there twice" for name, count in names.items() if count > 1)
