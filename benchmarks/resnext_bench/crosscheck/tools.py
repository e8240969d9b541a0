"""The peers by name, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from resnext.artifact.files import Artifact
from resnext.errors import MissingRequirement, UnknownName, UsageError
from resnext.runtimes.registry import RUNTIMES

from .benchmark_app import BENCHMARK_APP
from .perf_test import PERF_TEST
from .plain_loop import PLAIN_LOOP
from .tool import Tool
from .trtexec import TRTEXEC

#: Every peer by its name.
TOOLS: Mapping[str, Tool] = MappingProxyType(
    {tool.name: tool for tool in (BENCHMARK_APP, PLAIN_LOOP, PERF_TEST, TRTEXEC)}
)


def runs(tool: Tool, artifact: Artifact) -> bool:
    """Whether ``tool`` and our runtime on the other side can run ``artifact``."""
    manifest = artifact.manifest
    return manifest.kind in tool.kinds and manifest.precision in RUNTIMES[tool.backend].precisions


def chosen(artifact: Artifact, name: str | None) -> tuple[Tool, ...]:
    """The tool called ``name``, or every one that can run ``artifact`` and is here.

    Raises:
        UnknownName: there is no such tool.
        UsageError: the tool cannot run the artifact.
        MissingRequirement: it is not installed, or none is.
    """
    if name is not None and name not in TOOLS:
        raise UnknownName("tool", name, TOOLS)
    able = [tool for tool in TOOLS.values() if runs(tool, artifact)]
    manifest = artifact.manifest
    if name is not None and TOOLS[name] not in able:
        raise UsageError(
            f"{name} runs {' and '.join(TOOLS[name].kinds)} files, and {artifact.directory} is of"
            f" kind {manifest.kind} and {manifest.precision}",
            hint=f"use `tool` {', '.join(tool.name for tool in able)}" if able else "",
        )
    wanted = able if name is None else [TOOLS[name]]
    here = tuple(tool for tool in wanted if tool.program() is not None)
    if not here and not wanted:
        raise UsageError(f"no tool runs {manifest.kind} files of {manifest.precision}")
    if not here:
        names = " or ".join(tool.name for tool in wanted)
        raise MissingRequirement(
            f"{names} is neither beside this Python nor on PATH", hint=wanted[0].install
        )
    return here
