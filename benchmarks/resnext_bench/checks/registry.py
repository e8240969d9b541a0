"""The validity checks by code, in the order of a row's reasons."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from resnext.findings import Finding

from . import (
    accuracy,
    answered_from_cache,
    assumed_preprocessing,
    batch_integrity,
    beyond_limit,
    cannot_serve,
    changed_output,
    copy_bound,
    delivered,
    device_clock,
    disturbed,
    host_bound,
    imprecise,
    late_arrivals,
    latency_growth,
    leak,
    loadgen_invalid,
    no_time,
    output,
    samples,
    scenario_failed,
    shared_server,
    slo,
    steady,
    threads,
    two_modes,
    untrained,
    wrong_under_load,
)
from .evidence import Evidence


@dataclass(frozen=True)
class Check:
    """One reason not to believe a row, or a caveat.

    Attributes:
        code: stable name, also of its findings.
        findings: yields nothing for a row that passes.
        page: its meaning and remedy, in Markdown.
    """

    code: str
    findings: Callable[[Evidence], Iterable[Finding]]
    page: str


def registry(*modules: ModuleType) -> Mapping[str, Check]:
    """The checks of ``modules`` by code, in order.

    Raises:
        ValueError: two have the same code.
    """
    checks: dict[str, Check] = {}
    for module in modules:
        if module.CODE in checks:
            raise ValueError(f"two checks have the code {module.CODE!r}")
        page = inspect.cleandoc(module.__doc__ or "")
        checks[module.CODE] = Check(module.CODE, module.findings, page)
    return MappingProxyType(checks)


#: Every check by its code.
CHECKS: Mapping[str, Check] = registry(
    wrong_under_load,
    disturbed,
    samples,
    no_time,
    steady,
    threads,
    imprecise,
    two_modes,
    device_clock,
    output,
    batch_integrity,
    delivered,
    answered_from_cache,
    shared_server,
    accuracy,
    beyond_limit,
    host_bound,
    copy_bound,
    scenario_failed,
    cannot_serve,
    late_arrivals,
    slo,
    loadgen_invalid,
    leak,
    changed_output,
    latency_growth,
    untrained,
    assumed_preprocessing,
)


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Findings about a row; only warnings, or none, for a valid one."""
    return tuple(finding for check in CHECKS.values() for finding in check.findings(evidence))
