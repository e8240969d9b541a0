"""Options of scenarios under load."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from resnext.cli.sections import option_of
from resnext.errors import UsageError
from resnext.storage import check_writable

if TYPE_CHECKING:
    from resnext_bench.scenarios.loadgen_record import LoadGenScenario
    from resnext_bench.scenarios.scenario import Scenario

    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

SERVING = "Serving"
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_MOST_MS = 3.6e6


class LatencyType(_ParamType):
    """A latency with its unit; its value is in milliseconds."""

    name = "LATENCY"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Check and convert."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|ms|s)", str(value).strip())
        latency = float(match[1]) * _UNITS_MS[match[2]] if match else 0.0
        if not 0 < latency <= _MOST_MS:
            self.fail(
                f"{value!r} must be a latency above 0 and at most an hour, with its unit: 20ms,"
                " 0.5s or 800us",
                param,
                ctx,
            )
        return latency


def load_options(function: F) -> F:
    """Add ``--load``, ``--slo``, ``--loadgen`` and ``--loadgen-logs``."""
    option = option_of(SERVING)
    for decorate in reversed(
        (
            option(
                "--load",
                metavar="closed:N|poisson:RATE|poisson",
                help=(
                    "After the timed rounds, N clients, or RATE requests a second at random times,"
                    " with latency from the planned arrival; poisson searches the largest rate that"
                    " meets --slo. A request is one run of the batch."
                ),
            ),
            option(
                "--slo",
                type=LatencyType(),
                metavar="LATENCY",
                help="Latency that 99 % of requests must not exceed, at 99 % confidence: 20ms.",
            ),
            option(
                "--loadgen",
                type=click.Choice(["single-stream", "multi-stream", "server", "offline"]),
                help=(
                    "Run MLPerf's own LoadGen on every row, for --duration; server takes the rate"
                    " of --load poisson:RATE, else 70 % of the measured speed."
                ),
            ),
            option(
                "--loadgen-logs",
                type=click.Path(path_type=Path, file_okay=False),
                metavar="DIR",
                help="Keep LoadGen's log files, in a folder for each row.",
            ),
        )
    ):
        function = decorate(function)
    return function


def load_scenarios(
    *,
    load: str | None,
    slo: float | None,
    loadgen: str | None,
    loadgen_logs: Path | None,
    duration: float,
    streams: tuple[int, ...],
    cache: str,
) -> list[Scenario]:
    """The scenarios that the options ask for, checked before anything is measured.

    Raises:
        UsageError: options that do not go together, or a load of another form.
        MissingRequirement: LoadGen is not installed.
        BadInput: the folder for its files cannot be written.
    """
    from resnext_bench.scenarios.load import Load
    from resnext_bench.scenarios.loadgen import LoadGen, require_loadgen

    if slo is not None and load is None and loadgen != "server":
        raise UsageError("`slo` is for `load` and `loadgen` server", hint="give one of them")
    if loadgen_logs is not None and loadgen is None:
        raise UsageError("`loadgen_logs` is for `loadgen`", hint="give that too")
    if cache == "cold" and (load is not None or loadgen is not None):
        raise UsageError(
            "`load` and `loadgen` keep the caches hot", hint="drop them, or use `cache` hot"
        )
    scenarios: list[Scenario] = []
    rate = None
    if load is not None:
        scenarios.append(under_load := Load(load, slo, duration))
        rate = under_load.rate
    if loadgen is not None:
        server = loadgen == "server"
        run = LoadGen(
            cast("LoadGenScenario", loadgen),
            duration,
            slo if server else None,
            rate if server else None,
            loadgen_logs,
        )
        run.check_streams(streams)
        require_loadgen()
        if loadgen_logs is not None:
            check_writable(loadgen_logs / "mlperf_log_summary.txt")
        scenarios.append(run)
    return scenarios
