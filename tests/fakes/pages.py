"""Runs for tests of the page: a stored one, with everything that a row can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnext_bench.record import FindingRecord, Row
from resnext_bench.result import Run, read_run
from resnext_bench.scenarios.cold_record import ColdStartRecord, Start
from resnext_bench.scenarios.energy_record import EnergyRecord, EnergyUse
from resnext_bench.scenarios.growth import growth
from resnext_bench.scenarios.load_record import LoadRecord, Probe
from resnext_bench.scenarios.loadgen_record import LoadGenRecord
from resnext_bench.scenarios.soak_record import SoakRecord
from resnext_bench.served import ServedRecord, ServerTimes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
COMMAND = (
    *("resnext-bench", "--backend", "torch,torch-folded,torch-compile,ort-cpu,openvino,pt2"),
    *("--batch", "1,8", "--duration=3", "--precision-target", "3%", "--json", "run.json"),
)
#: Would be an element, end an attribute, or run.
HOSTILE = "\"'><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>&lt;"


def stored_run() -> Run:
    """Twelve rows of two batch sizes, some of them with a disturbed round."""
    return read_run(RESULTS / "2026-11-28-xeon-6-167-amx-2cores-resnext50-fp32.json")


def full_run() -> Run:
    """The stored run with what it lacks: a command, layers, a roofline, a row that is not valid and
    one that failed.
    """
    run = stored_run()
    rows = [_full(row, index) for index, row in enumerate(run.rows)]
    reason = "its output is wrong: 0.1 of 0.0001"
    rows[2] = rows[2].model_copy(
        update={
            "status": "invalid",
            "reasons": (f"{reason}; give a larger `duration`",),
            "findings": (FindingRecord(code="wrong-output", severity="refused", message=reason),),
        }
    )
    rows.append(Row(backend="trt", batch=8, status="failed", reasons=("no GPU",), exit_code=3))
    return run.model_copy(update={"rows": tuple(rows), "command": COMMAND})


def hostile_run(text: str = HOSTILE) -> Run:
    """`full_run` with ``text`` in every string that a user or a file can choose."""
    run = full_run()
    rows = []
    for row in run.rows:
        update: dict[str, Any] = {
            "backend": row.backend + text,
            "variant": text,
            "reasons": tuple(reason + text for reason in row.reasons),
            "warnings": {code: each + text for code, each in row.warnings.items()},
            "device": text,
            "delivered": None if row.delivered is None else row.delivered + text,
            "modules": {name + text: text for name in row.modules},
            "served": None if row.served is None else _served(text),
            "energy": None if row.energy is None else _energy(0, text),
            "loadgen": None if row.loadgen is None else _loadgen(text),
            "disturbances": {0: (text,)},
        }
        rows.append(row.model_copy(update=update))
    environment = run.environment.model_copy(
        update={"cpu": text, "system": text, "python": text, "packages": {text: text}}
    )
    weights = run.weights.model_copy(update={"source": text})
    return run.model_copy(
        update={
            "created": text,
            "model": text,
            "precision": text,
            "weights": weights,
            "thread_reason": text,
            "reused": (text,),
            "environment": environment,
            "command": (text, *COMMAND),
            "rows": tuple(rows),
        }
    )


def _full(row: Row, index: int) -> Row:
    layers = ["conv1", *(f"layer1.{block}.conv{k}" for block in range(3) for k in (1, 2, 3)), "fc"]
    dtype = ("float32", "int8")[index % 2]
    modules = dict.fromkeys(layers, dtype) | {"fc": "float32"}
    distance = row.distance
    if distance is not None:
        distance = distance.model_copy(
            update={
                "operations": 8.5e9 * row.batch,
                "blocks_bytes": 70_000_000 + 40_000_000 * row.batch,
                "operations_per_s": 3.7e11,
                "bytes_per_s": 2.3e10,
            }
        )
    soaked = _soaked(index) if row.batch == 8 else None
    return row.model_copy(
        update={
            "modules": modules,
            "distance": distance,
            "soak": soaked,
            "load": _load(row),
            "served": _served("triton 2.51.0") if index % 2 else None,
            "energy": _energy(index, "GPU"),
            "cold_start": _cold_start(index) if index < 6 else None,
            "loadgen": _loadgen("") if index in (3, 4) else None,
        }
    )


def _cold_start(index: int) -> ColdStartRecord:
    """Three starts without caches, three with."""
    first = Start(
        python_s=0.02,
        library_s=0.3 + 0.2 * index,
        toolkit_s=0.2,
        open_s=0.1 * index,
        first_s=2.0,
        steady_s=0.1,
        peak_host_bytes=10**9,
    )
    later = first.model_copy(update={"first_s": 0.15})
    return ColdStartRecord(
        without_caches=(first,) * 3, with_caches=(later,) * 3, file_dropped=True, build_s=12.0
    )


def _loadgen(text: str) -> LoadGenRecord:
    """A run that was too short."""
    return LoadGenRecord(
        scenario="single-stream",
        version=f"6.0.17{text}",
        min_duration_s=1,
        result="INVALID",
        recommendations=(f"Need 67 more queries{text}",),
        images_per_s=28.1,
        percentiles_ns={"p50": 35_000_000, "p90": 36_000_000},
        queries=392,
        summary=f"Result is : INVALID{text}",
    )


def _served(server: str) -> ServedRecord:
    times = ServerTimes(
        sent=40,
        requests=40,
        executions=20,
        batch=2.0,
        client_ns=3e6,
        server_ns=2e6,
        queue_ns=2e5,
        input_ns=1e5,
        infer_ns=16e5,
        output_ns=1e5,
    )
    return ServedRecord(server=server, confirmed=True, times=times)


def _energy(index: int, source: str) -> EnergyRecord:
    """Of two sources."""
    uses = (
        EnergyUse(source=source, method=f"{source} counter", joules_per_image=0.2 + index),
        EnergyUse(source="CPU", method="RAPL", joules_per_image=1.5, idle_w=20.0, power_w=60.0),
    )
    return EnergyRecord(images=100, seconds=2.0, uses=uses)


def _load(row: Row) -> LoadRecord | None:
    """A search for two rows, one load for two others."""
    latencies = [
        int(2e7 * (1 + 0.001 * (n * 7919 % 1000)) + 1e6 * (n % 97 == 0)) for n in range(2000)
    ]

    def probe(rate: float, slo_ns: int) -> Probe:
        slower = [int(one * (1 + (rate / 40) ** 4) + 10**6 * len(row.backend)) for one in latencies]
        ordered = sorted(slower)
        return Probe(
            offered_per_s=rate,
            workers=1,
            answered_per_s=rate,
            images_per_s=rate * row.batch,
            requests=len(slower),
            busy=0.5,
            latency_ns=tuple(slower),
            p50_ns=ordered[1000],
            p90_ns=ordered[1820],
            p99_ns=ordered[1990],
            max_ns=ordered[-1],
            over_slo=sum(one > slo_ns for one in slower),
        )

    if row.batch == 8 or row.backend not in ("ort-cpu", "openvino", "torch", "pt2"):
        return None
    if row.backend in ("torch", "pt2"):
        return LoadRecord(load="poisson:20", probes=(probe(20, 60_000_000),), slo_ns=60_000_000)
    tried = tuple(probe(rate, 60_000_000) for rate in (10, 40, 20, 26))
    return LoadRecord(
        load="poisson", slo_ns=60_000_000, probes=tried, largest_per_s=20, missed_per_s=26
    )


def _soaked(index: int) -> SoakRecord:
    """Two minutes; every second row leaks a megabyte a minute."""
    at_s = tuple(range(1, 121))
    leak = 1e6 * (index % 2)
    sizes = tuple(int(4e8 + leak * at / 60 + 3e4 * (at * 7 % 5)) for at in at_s)
    latency = tuple(1 + 0.01 * (at * 3 % 7 - 3) for at in at_s)
    return SoakRecord(
        minutes=2,
        lasted_s=120,
        batches=(1, 8),
        runs=4321,
        at_s=at_s,
        host_bytes=sizes,
        latency=latency,
        host_growth=growth(at_s, sizes),
        latency_growth=growth(at_s, latency),
        output_error=1e-7,
        output_limit=1e-6,
        changed_s=9.5 if index == 6 else None,
    )
