"""``--junit PATH``: the outcome of a command as JUnit XML, which CI servers show and keep."""

from __future__ import annotations

import datetime
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from resnext.errors import ResnextError, UsageError
from resnext.storage import check_writable, write_text

from .app import as_flags, printable
from .options import OUTPUT
from .sections import option_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class JUnitCase:
    """One test case of a report.

    Attributes:
        name: unique among the cases of its class.
        classname: groups cases; viewers take what is before the last dot for a package.
        outcome: ``failure``: a check said no; ``error``: it could not be made; ``skipped``: it was
            not made, or has no verdict.
        code: kind of the failure or error, for example the code of a finding.
        reasons: why it did not pass, one line each; fields in backticks are spelled as flags.
        time_s: seconds.
    """

    name: str
    classname: str
    outcome: Literal["passed", "failure", "error", "skipped"] = "passed"
    code: str = ""
    reasons: Sequence[str] = ()
    time_s: float = 0.0


class JUnit:
    """The report of one command. A command adds its cases before it raises or exits.

    Args:
        suite: the command's name.

    Attributes:
        cases: in their order.
        text: the report in words, shown beside the cases.
    """

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.cases: list[JUnitCase] = []
        self.text = ""

    def add(self, cases: Iterable[JUnitCase], text: str = "") -> None:
        """Add ``cases``, and ``text`` to the report in words."""
        self.cases += cases
        self.text += text

    def xml(self) -> str:
        """The report, as the schemas of Ant's JUnit tasks and of Jenkins have it.

        Characters that XML cannot hold are escaped. Like every report of the toolkit, it names no
        host.
        """
        from xml.etree import ElementTree

        outcomes = Counter(case.outcome for case in self.cases)
        now = datetime.datetime.now(datetime.timezone.utc)
        root = ElementTree.Element("testsuites")
        attributes = {
            "id": "0",
            "name": self.suite,
            "package": self.suite,
            "hostname": "localhost",
            "timestamp": f"{now:%Y-%m-%dT%H:%M:%S}",
            "tests": str(len(self.cases)),
            "failures": str(outcomes["failure"]),
            "errors": str(outcomes["error"]),
            "skipped": str(outcomes["skipped"]),
            "time": f"{sum(case.time_s for case in self.cases):.3f}",
        }
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        ElementTree.SubElement(suite, "properties")
        for case in self.cases:
            names = {"name": printable(case.name), "classname": printable(case.classname)}
            time = {"time": f"{case.time_s:.9f}"}
            element = ElementTree.SubElement(suite, "testcase", names | time)
            if case.outcome != "passed":
                reasons = [printable(as_flags(reason)) for reason in case.reasons]
                facts = {"message": "; ".join(reasons)}
                if case.outcome != "skipped":
                    facts["type"] = printable(case.code)
                ElementTree.SubElement(element, case.outcome, facts).text = "\n".join(reasons)
        lines = [printable(line) for line in self.text.splitlines()]
        ElementTree.SubElement(suite, "system-out").text = "\n".join(lines)
        ElementTree.SubElement(suite, "system-err")
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def junit_option(suite: str) -> Callable[[F], F]:
    """Add ``--junit PATH`` to the command that is called ``suite``; it gets a `JUnit` as ``junit``.

    Goes below ``@guarded``. The file is written when the command has ended, also with an error: one
    that comes before the first case is a case itself, so that no report of an earlier call is left.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, junit_path: Path | None, **kwargs: Any) -> Any:
            junit = JUnit(suite)
            if junit_path is None:
                return function(*args, junit=junit, **kwargs)
            others = [value for name, value in kwargs.items() if name.endswith("_path") and value]
            if str(junit_path) == "-":
                raise UsageError("`junit` needs a file; only `json` can go to stdout")
            if os.path.realpath(junit_path) in map(os.path.realpath, others):
                raise UsageError("`junit` needs a separate file")
            check_writable(junit_path)
            try:
                return function(*args, junit=junit, **kwargs)
            except Exception as exc:
                if not junit.cases:
                    kind = type(exc).__name__
                    reason = str(exc) if isinstance(exc, ResnextError) else f"{kind}: {exc}"
                    junit.add([JUnitCase(suite, suite, "error", kind, [reason])])
                raise
            finally:
                if junit.cases:
                    write_text(str(junit_path), junit.xml())

        option = option_of(OUTPUT)(
            "--junit",
            "junit_path",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="PATH",
            help="Write the outcome as JUnit XML, for CI servers.",
        )
        added: F = option(wrapper)
        return added

    return decorate
