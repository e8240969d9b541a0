"""What was measured or found before: kept runs, verdicts, cached artifacts."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from resnext.artifact.files import VERDICT_NAME, Artifact
from resnext.artifact.manifest import Manifest
from resnext.errors import BadArtifact, GateFailed
from resnext.machine.environment import Environment
from resnext.network.config import ResNeXtConfig
from resnext.precision import PRECISIONS
from resnext.readers.files import exists
from resnext.runtimes.registry import RUNTIMES
from resnext.timing.change import MARGIN
from resnext.verify.verdict import check_binding, read_verdict
from resnext_bench.history.index import indexed, kept_indexes
from resnext_bench.history.series import rows_left_out, runs_in, series_of
from resnext_export import stored_manifests

from .facts import Seen, Timed
from .topics import MERGED

#: Names that a benchmark gives to candidates from weights.
_VARIANT = re.compile(rf"(?:{'|'.join(PRECISIONS)})? ?(merged (?:auto|\d+))?")


def timed_here(
    environment: Environment,
    model: str | None,
    folder: Path | None,
    note: Callable[[str], None],
) -> tuple[Timed, ...]:
    """Rows of kept runs of this network on this machine.

    Args:
        environment: this machine.
        model: variant; None: custom networks are not told apart, so there are none.
        folder: of run files; None means every folder whose history was read before.
        note: called with one line if an index or a file cannot be used, or ``folder`` has no row.

    Raises:
        BadInput: ``folder`` cannot be read.
    """
    if model is None:
        if folder is not None:
            note("`history` is not used: stored runs of networks without a name are not told apart")
        return ()
    if folder is not None:
        with indexed(folder, note) as index:
            rows = tuple(_rows(index, environment, model))
            if not rows:
                note(f"{folder} has no time of {model} on this machine: {_contents(index)}")
        return rows
    found = (row for index in kept_indexes(note) for row in _rows(index, environment, model))
    return tuple(dict.fromkeys(found))


def proven(
    artifact: Artifact, environment: Environment, asked: Collection[str] | None = None
) -> Iterator[Seen]:
    """What the verdict beside ``artifact`` says of the runtimes that are asked about, if it is
    about these bytes.
    """
    if artifact.bare or not exists(artifact.directory / VERDICT_NAME):
        return
    about = partial(Seen, artifact.manifest.precision, where=VERDICT_NAME)
    try:
        verdict = read_verdict(artifact.directory)
        if asked is not None and verdict.runtime not in asked:
            return
        day, here = verdict.created[:10], verdict.environment.title() == environment.title()
        check_binding(artifact, verdict)
    except GateFailed as exc:
        text = f"The verdict did not pass: {exc.message}."
        if here:
            yield about(text, created=day, outlook="no use")
        else:
            yield about(text, created=day, source="known")
        return
    except BadArtifact as exc:
        text = f"The verdict is not to be used: {exc.message}."
        yield about(text, created="", source="known")
        return
    said = f"This artifact passed on {verdict.runtime} ({verdict.capability})"
    if (error := verdict.parity.max_error) is not None:
        said += f", max error {error:.1e} of the logits' RMS"
    if (timing := verdict.timing) is not None:
        said += f", {timing.median_ns / 1e6:.3g} ms at batch {timing.batch}"
    if not here:
        said += f", on another machine: {verdict.environment.title()}"
    yield about(f"{said}.", created=day, source="measured" if here else "known")


def made(
    sha256: str | None,
    config: ResNeXtConfig,
    asked: Collection[str] | None = None,
    folder: Path | None = None,
) -> Iterator[Seen]:
    """What earlier exports of these weights into the cache found.

    Args:
        sha256: digest of the weights; None: nothing is known of them.
        config: the network: the same weights also fit another size of images.
        asked: runtimes that are asked about; None: all.
        folder: of the store; None means the cache.
    """
    if sha256 is None:
        return
    for manifest in stored_manifests(folder):
        if manifest.weights.sha256 == sha256 and manifest.config == config:
            yield from told(manifest, asked)


def told(manifest: Manifest, asked: Collection[str] | None = None) -> Iterator[Seen]:
    """What a manifest tells of its precision, and of a merge on the runtimes that are asked about;
    it does not say on which machine, and so says nothing of the speed on this one.
    """
    day, where = manifest.created[:10], f"the manifest of an export to {manifest.kind}"
    parts = []
    if (check := manifest.check) is not None:
        parts.append(f"max error {check.max_error:.1e} of the logits' RMS on {check.backend}")
        if check.error_ratio is not None:
            causes = f"{manifest.precision} causes by itself"
            parts.append(f"{check.error_ratio:.2g} times the error that {causes}")
    if (widest := manifest.ranges) is not None:
        parts.append(f"largest activation {widest.largest:.3g} ({widest.layer})")
    if manifest.engine is not None and manifest.engine.done:
        parts.append("; ".join(manifest.engine.done))
    if parts and manifest.precision != "fp32":
        text = f"An export of these weights: {', '.join(parts)}."
        yield Seen(manifest.precision, text, day, where, source="known")
    merged = manifest.merged
    if merged is not None and merged.runtime is not None:
        if asked is not None and merged.runtime not in {RUNTIMES[name].module for name in asked}:
            return
        faster = merged.groups and merged.speedup is not None and merged.speedup > 1 + MARGIN
        gain = f"{merged.speedup:.2f} times as fast" if faster else "no width was faster"
        text = (
            f"On the machine that made it, merging, timed on {merged.runtime} at"
            f" {manifest.precision}, batch {merged.batch}: {gain}."
        )
        yield Seen(MERGED, text, day, where, source="known", batch=merged.batch)


def merged_in(variant: str) -> bool | None:
    """Whether a candidate has merged groups, by its name; None if a user named it."""
    match = _VARIANT.fullmatch(variant)
    return None if match is None else match[1] is not None


def _contents(index: sqlite3.Connection) -> str:
    """What there is in a folder of stored runs."""
    ((broken,),) = index.execute("SELECT count(*) FROM files WHERE kind = 'broken'")
    counts = (
        (runs_in(index), "stored runs"),
        (rows_left_out(index), "rows that are not valid"),
        (broken, "broken files"),
    )
    return ", ".join(f"{what}: {count}" for count, what in counts)


def _rows(index: sqlite3.Connection, environment: Environment, model: str) -> Iterator[Timed]:
    gpus = ", ".join(gpu.name for gpu in environment.gpus) or "none"
    here = (environment.cpu, str(environment.physical_cores), gpus, model)
    for key, points in series_of(index).items():
        if (key.processor, key.cores, key.gpus, key.model) != here:
            continue
        if key.cache != "hot" or key.streams != 1 or key.boundary not in ("host", "graph"):
            continue
        for point in points:
            yield Timed(
                point.file,
                point.created[:10],
                key.backend,
                key.precision,
                merged_in(key.variant),
                key.batch,
                point.median_ns,
                point.low_ns,
                point.high_ns,
            )
