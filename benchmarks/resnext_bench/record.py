"""The stored form of a run: raw samples with everything needed to judge them."""

from __future__ import annotations

from typing import Literal

from resnext.artifact.manifest import WeightsRecord
from resnext.artifact.specs import Strict
from resnext.findings import Severity
from resnext.machine.environment import Environment
from resnext.machine.load import Load
from resnext.machine.nvml import GpuState
from resnext.verify.accuracy import Accuracy
from resnext.verify.batches.laws import Integrity
from resnext.verify.parity import Parity

from .control import Control
from .limits.distance import Distance
from .measure import Ended
from .scenarios.cold_record import ColdStartRecord
from .scenarios.energy_record import EnergyRecord
from .scenarios.load_record import LoadRecord
from .scenarios.loadgen_record import LoadGenRecord
from .scenarios.soak_record import SoakRecord
from .served import ServedRecord
from .stats import Timing


class FindingRecord(Strict):
    """One finding about a row.

    Attributes:
        code: its check; each has a page in the reference.
        severity: ``refused`` makes the row invalid, ``warning`` does not.
        message: the finding.
        hint: what to do; "" if unknown.
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""


class Row(Strict):
    """The outcome of one case.

    Attributes:
        backend: registry name; of a served model with its URL.
        batch: images in one run.
        variant: name of the candidate; empty if the run has only one.
        threads: CPU threads that the runtime reports, or that it was given if it does not tell;
            None in files from before this was recorded.
        streams: requests in flight at once.
        precision: requested; None in files from before a run could have several.
        status: ``valid``; ``invalid``: measured, but a check failed; ``failed``: not measured.
        reasons: why not valid, each with what to do.
        warnings: caveats by the code of their check; they do not make a row invalid.
        findings: both, with their codes; empty for a failed row, and in files from before they were
            stored.
        exit_code: of the error, for a failed row.
        device: device name.
        delivered: element types in which convolutions and matrix products were computed.
        modules: element type in which each convolution and the classifier was computed, by its
            name in the state dict; empty if the runtime does not tell, and in files from before
            it was stored.
        notes: threads, memory format, CUDA graph, ...
        timings: by boundary; empty for a failed row.
        warmup_runs: untimed runs before the first round.
        setup_s: seconds to open, bind and first run the session, compilation included.
        bind_s: seconds of the bind and first run alone: kernels are chosen or compiled
            (TensorRT-RTX) and CUDA graphs captured here.
        peak_host_bytes: peak memory that opening this session and its first runs added to the
            process, before the timed ones.
        peak_device_bytes: memory that this session added on the device.
        gpu: state of the GPU in each round; empty for a CPU, and without NVML.
        loads: use of the processors in each round.
        disturbances: what disturbed a round, in words, by its index.
        model_size_bytes: size of the artifact's file, or of the tensors for a live model; None for
            a server.
        artifact_sha256: digest of the file that ran; None for a live model, and for a server that
            does not say which file it runs.
        parity: of the outputs of the timed runs themselves, and if they have few logits, of more
            images, against float64 PyTorch.
        integrity: whether the rows of the timed batch depend on their own images alone; None for a
            failed row, and in files from before this was examined.
        accuracy: on labeled images, compared with their labels and with float32 PyTorch; None
            if it was not requested.
        distance: from the limit of this machine; None if its ceilings were not measured.
        served: of a model that a server ran: what the server counted; None if this process ran
            it, and in files from before servers were measured.
        load: answers under load; None if none was requested.
        loadgen: MLPerf's LoadGen on it; None if it was not requested.
        energy: joules an image, in a pass apart; None if the machine has no counter.
        cold_start: from nothing to the first answer, in fresh processes; None if it was not
            requested.
        soak: memory, latency and outputs over minutes; None if it was not requested.
    """

    backend: str
    batch: int
    variant: str = ""
    threads: int | None = None
    streams: int = 1
    precision: str | None = None
    status: Literal["valid", "invalid", "failed"]
    reasons: tuple[str, ...] = ()
    warnings: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    findings: tuple[FindingRecord, ...] = ()
    exit_code: int = 0
    device: str | None = None
    delivered: str | None = None
    modules: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    notes: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    timings: tuple[Timing, ...] = ()
    warmup_runs: int = 0
    setup_s: float | None = None
    bind_s: float | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    gpu: tuple[GpuState, ...] = ()
    loads: tuple[Load, ...] = ()
    disturbances: dict[int, tuple[str, ...]] = {}  # noqa: RUF012  # pydantic copies it
    model_size_bytes: int | None = None
    artifact_sha256: str | None = None
    parity: Parity | None = None
    integrity: Integrity | None = None
    accuracy: Accuracy | None = None
    distance: Distance | None = None
    served: ServedRecord | None = None
    load: LoadRecord | None = None
    loadgen: LoadGenRecord | None = None
    energy: EnergyRecord | None = None
    cold_start: ColdStartRecord | None = None
    soak: SoakRecord | None = None


class RunRecord(Strict):
    """The fields of `resnext_bench.result.Run`, which documents them."""

    format_version: Literal[1] = 1
    created: str
    model: str | None
    weights: WeightsRecord
    precision: str
    duration_s: float
    rounds: int
    seed: int
    threads: int | None
    thread_reason: str = ""
    precision_target: float | None = None
    complete: bool = True
    ended: Ended | None = None
    control: Control | None = None
    reused: tuple[str, ...] = ()
    environment: Environment
    harness_ns: float | None = None
    unknown: str = ""
    command: tuple[str, ...] = ()
    rows: tuple[Row, ...]
