"""A LoadGen run of a row: MLPerf's own load generator, with its verdict and its log files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from resnext.errors import MissingRequirement, UnknownName, UsageError
from resnext.storage import scratch_folder
from resnext.timing.clock import settle

from .load import patience_s, refuse_endless, refuse_impossible, service_rate, workers_of
from .loadgen_record import LoadGenRecord, LoadGenScenario, record_of
from .loadgen_sut import System
from .scenario import Stage

SCENARIOS: tuple[str, ...] = get_args(LoadGenScenario)
_NAMES = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
#: Queries that LoadGen's early stopping needs for the scenario's percentile.
_LEAST_QUERIES = {"single-stream": 64, "multi-stream": 662, "server": 662, "offline": 1}
#: Server without a rate: this share of what back-to-back runs reached.
_SERVER_SHARE = 0.7
#: The other scenarios: expected latency over that of the fastest timed run.
_FASTER = 0.3
#: Offline: expected speed over that of back-to-back runs, so that its only query lasts.
_OFFLINE_MORE = 1.1


@dataclass(frozen=True)
class LoadGen:
    """Runs MLPerf's LoadGen on each row after its timed rounds; a scenario for `benchmark`.

    Its results are those of a "LoadGen run", not MLPerf results: those need MLPerf's models, data
    and durations, and its review. A sample is one run of the row's batch.

    Attributes:
        scenario: ``single-stream``, ``multi-stream``, ``server`` or ``offline``.
        duration: minimum seconds; 600 in official runs.
        slo_ms: target latency of ``server``, milliseconds, which 99 % of queries must meet.
        rate: queries a second of ``server``; None means 70 % of the speed in the timed rounds.
        logs: folder that keeps LoadGen's files, one folder for each row; None keeps only the
            summary, in the record.

    Raises:
        UnknownName: no such scenario.
        UsageError: ``server`` without an SLO, or values that another scenario does not use.
    """

    scenario: LoadGenScenario
    duration: float = 5.0
    slo_ms: float | None = None
    rate: float | None = None
    logs: Path | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise UnknownName("loadgen scenario", self.scenario, SCENARIOS)
        server = self.scenario == "server"
        if server and self.slo_ms is None:
            raise UsageError(
                "`loadgen` server needs a target latency", hint="give `slo`, for example 20ms"
            )
        if not server and (self.slo_ms is not None or self.rate is not None):
            raise UsageError(
                f"`loadgen` {self.scenario} has no rate and no target latency",
                hint="use `loadgen` server",
            )
        for name, value in (("duration", self.duration), ("slo", self.slo_ms), ("rate", self.rate)):
            if value is not None and not 0 < value < 1e9:
                raise UsageError(f"`{name}` must be above 0, not {value:g}")

    @property
    def field(self) -> str:
        """Field of `Row`."""
        return "loadgen"

    def __call__(self, stage: Stage) -> LoadGenRecord:
        """LoadGen's verdict on the row.

        Raises:
            UsageError: single-stream with several streams.
            MissingRequirement: mlcommons-loadgen is not installed.
            GateFailed: the SLO is less than the fastest timed run, or time is up.
            ResnextError: the session failed.
        """
        self.check_streams((stage.case.streams,))
        slo_ns = None if self.slo_ms is None else round(self.slo_ms * 1e6)
        refuse_impossible(slo_ns, stage)
        library = require_loadgen()
        workers = workers_of(stage)
        for worker in workers:
            settle(worker)
        speed = service_rate(stage)
        rate = (self.rate or _SERVER_SHARE * speed) if self.scenario == "server" else None
        samples = _LEAST_QUERIES[self.scenario] * (8 if self.scenario == "multi-stream" else 1)
        refuse_endless(rate or speed, samples, remedy="a higher rate or a faster backend")
        seconds = max(self.duration, samples / (rate or speed))
        stage.say(f"LoadGen {self.scenario} on {stage.case}, about {seconds:.0f} s")
        fastest_ns = min(one for burst in stage.samples.host_ns for one in burst)
        system = System(
            workers,
            patience_s(stage),
            lambda sample: library.QuerySamplesComplete(
                [library.QuerySampleResponse(sample, 0, 0)]
            ),
            stage.deadline.over,
            # A server's queries come while others run.
            len(workers) == 1 and self.scenario != "server",
        )
        with scratch_folder() as scratch:
            folder = scratch if self.logs is None else self.logs / folder_name(stage)
            folder.mkdir(parents=True, exist_ok=True)
            system.run(
                partial(
                    _test, library, system, self._settings(library, speed, fastest_ns, rate), folder
                )
            )
            if system.stopped:
                raise stage.deadline.not_measured()
            summary = (folder / "mlperf_log_summary.txt").read_text(
                encoding="utf-8", errors="replace"
            )
        wrong = next(filter(None, (worker.wrong() for worker in workers)), "")
        return record_of(
            summary,
            self.scenario,
            version("mlcommons-loadgen"),
            stage.case.batch,
            system.queries,
            min_duration_s=self.duration,
            target_per_s=rate,
            slo_ns=slo_ns,
            wrong=wrong,
        )

    def check_streams(self, streams: tuple[int, ...]) -> None:
        """Check that the rows suit the scenario.

        Raises:
            UsageError: single-stream, and rows with several requests in flight.
        """
        if self.scenario == "single-stream" and max(streams) > 1:
            raise UsageError(
                f"`loadgen` single-stream has one request in flight, not {max(streams)}",
                hint="use `streams` 1, or `loadgen` server or offline",
            )

    def _settings(self, library: Any, speed: float, fastest_ns: int, rate: float | None) -> Any:
        settings = library.TestSettings()
        settings.scenario = getattr(library.TestScenario, _NAMES[self.scenario])
        settings.mode = library.TestMode.PerformanceOnly
        settings.min_duration_ms = max(1, round(1e3 * self.duration))
        settings.min_query_count = _LEAST_QUERIES[self.scenario]
        if rate is not None and self.slo_ms is not None:
            settings.server_target_qps = rate
            settings.server_target_latency_ns = round(self.slo_ms * 1e6)
        # From these LoadGen plans its queries, and with too few its run is too short.
        settings.single_stream_expected_latency_ns = max(1, round(_FASTER * fastest_ns))
        settings.multi_stream_expected_latency_ns = max(
            1, round(_FASTER * min(8 * fastest_ns, 8e9 / speed))
        )
        settings.offline_expected_qps = _OFFLINE_MORE * speed
        return settings


def require_loadgen() -> Any:
    """The module of MLPerf's LoadGen.

    Raises:
        MissingRequirement: it is not installed, or does not load.
    """
    try:
        version("mlcommons-loadgen")
        import mlperf_loadgen
    except (ImportError, PackageNotFoundError, OSError) as exc:
        raise MissingRequirement(
            "`loadgen` needs the Python package mlcommons-loadgen",
            hint="pip install 'resnext-toolkit[loadgen]'",
        ) from exc
    return mlperf_loadgen


def folder_name(stage: Stage) -> str:
    """Name of the folder of a row's log files: that of the case, with plain letters."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", str(stage.case)).strip("-.")


def _test(library: Any, system: System, settings: Any, folder: Path) -> None:
    logs = library.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    sut = library.ConstructSUT(system.issue, system.flush)
    library_of_samples = library.ConstructQSL(1, 1, _no_samples, _no_samples)
    try:
        # Without the name of a missing file, LoadGen reads audit.config of the current folder.
        library.StartTestWithLogSettings(
            sut, library_of_samples, settings, logs, str(folder / "no-audit.config")
        )
    finally:
        library.DestroyQSL(library_of_samples)
        library.DestroySUT(sut)


def _no_samples(_: list[int]) -> None:
    """All samples are the same batch, which is loaded."""
