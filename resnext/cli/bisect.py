"""``resnext-parity --bisect``: the blocks that a low-precision artifact loses by.

The search builds artifacts, which is the exporter's work. The exporter stands above this package,
so it is loaded by name when the option is used, as subcommands are (`SectionedGroup`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.storage import write_text

from .app import echo
from .junit import JUnitCase

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact

    from .junit import JUnit

_EXPORTER = "resnext_export"


def run(
    opened: Artifact,
    json_path: str | None,
    junit: JUnit,
    output: Path | None,
    *,
    images: int,
    **how: Any,
) -> None:
    """Search, print the outcome, add it to ``junit``, and write it as JSON if requested.

    Args:
        opened: the artifact.
        json_path: where the outcome goes as JSON.
        junit: gets a case for the whole.
        output: folder for an artifact that meets the gate, or None.
        images: number of images that are requested.
        **how: as `resnext_export.bisect.mend.bisect` takes it.

    Raises:
        MissingRequirement: the exporter is not installed.
        GateFailed: nothing mends it.
        ResnextError: as the search.
    """
    from resnext.errors import GateFailed

    from .parity_junit import classname
    from .parity_report import fewer_images

    search, words = _loaded("bisect.mend"), _loaded("bisect.report")

    def say(line: str) -> None:
        echo(line, err=True)

    began = time.monotonic()
    found = search.bisect(opened, output=output, say=say, images=images, **how)
    took_s = time.monotonic() - began
    if (fewer := fewer_images(found.source, found.images, images)) is not None:
        say(fewer)
    lines = [words.headline(found), *(f"  {line}".rstrip() for line in words.report(found))]
    where = classname(opened, found.runtime)
    case = JUnitCase("bisect", where, time_s=took_s)
    if not found.passed:
        case = replace(case, outcome="failure", code="bisect", reasons=[found.reason])
    junit.add([case], "\n".join(lines))
    if json_path != "-":
        for line in lines:
            echo(line)
    if found.passed and output is not None:
        echo(f"wrote {output}", err=True)
    if json_path is not None:
        write_text(json_path, found.to_json())
    if not found.passed:
        raise GateFailed(f"{opened.path} on {found.runtime} is not mended: {found.reason}")


def _loaded(module: str) -> Any:
    """A module of the exporter.

    Raises:
        MissingRequirement: there is none.
    """
    from resnext.errors import MissingRequirement

    try:
        return import_module(f"{_EXPORTER}.{module}")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != _EXPORTER:
            raise
        raise MissingRequirement(
            "`bisect` builds artifacts, and the exporter is not installed here",
            hint="install the whole toolkit, or run it where the artifact was exported",
        ) from exc
