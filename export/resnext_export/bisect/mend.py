"""Finds the blocks that a low-precision artifact loses by, and makes one that meets the gate."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnext.artifact.files import KIT_NAME, Artifact, check_destination, seal, staging
from resnext.errors import GateFailed, UsageError
from resnext.progress import steps, working
from resnext.storage import scratch_folder
from resnext.verify.check import comparison_for, natural_runtime
from resnext.verify.conformance import write_kit
from resnext.verify.parity import Parity
from resnext.verify.untrained import untrained
from resnext.version import __version__
from resnext.weights.spec import Weights
from resnext_export.command import export_command
from resnext_export.request import ExportRequest

from .damage import IMAGES, damages
from .judge import Judge
from .price import measured_price
from .record import Attempt, Bisection, Damage, Outcome
from .search import by_worth, most_builds, shortest_prefix, without_spares
from .workshop import Workshop

#: Changes that cost no time when the artifact runs, in the order in which they are added.
FREE = ("equalize", "correct_bias")


def bisect(
    artifact: Artifact,
    *,
    weights: str | None = None,
    runtime: str | None = None,
    batch: int | None = None,
    images: int = 28,
    seed: int = 0,
    images_from: str | None = None,
    gate: str = "default",
    agreement: float | None = None,
    output: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bisection:
    """Search by block for a cheap set that must stay float for ``artifact`` to meet its gate.

    First it is judged as it is; then its float32 sibling, since what float misses no block mends.
    Mends that cost no time come next (`FREE`), and then blocks, in the order of what they mend for
    their price (`damage`, `search`). Every candidate is a real export, judged on ``runtime``.

    Args:
        artifact: fp16, bf16, int8 or fp8, made by an export.
        weights: SPEC of what it was made from, if that moved.
        runtime: as for `resnext.verify.check.check`.
        batch: likewise.
        images: likewise.
        seed: likewise.
        images_from: likewise.
        gate: likewise.
        agreement: also ask that this share of the images has the reference's first class.
        output: folder for an artifact that meets the gate: the mended one, or a copy if there is
            nothing to mend; None means that none is written.
        say: called with one line for each build.

    Returns:
        The search: how it ended, what each block loses, everything that was judged.

    Raises:
        UsageError: the artifact is float32 or from elsewhere, or ``output`` is taken.
        ResnextError: as `check`, and whatever an export raises but GateFailed.
    """
    if agreement is not None and not 0 < agreement <= 1:
        raise UsageError(f"`agreement` is a share above 0 and at most 1, not {agreement:g}")
    if agreement is not None and (finding := untrained(artifact.manifest)) is not None:
        raise UsageError(f"{finding.message}; `agreement` cannot be asked of it", hint=finding.hint)
    if output is not None:
        check_destination(output, force=None)
    runtime = runtime or natural_runtime(artifact)
    with scratch_folder() as scratch:
        workshop = Workshop(artifact, weights, scratch, say)
        judge = Judge(workshop.weights, runtime, batch, images, seed, images_from, gate, agreement)
        search = _Search(artifact, workshop, judge, say)
        ended, reason = search.run()
        compared = search.first
        facts: dict[str, Any] = {}
        if ended == "passes" and output is not None:
            _write(artifact, output, workshop.weights, artifact.manifest.request)
        if search.mended is not None:
            size = batch or artifact.manifest.batch.opt
            with working("timing the mended artifact against the original"):
                facts["price"] = measured_price(artifact, search.mended, runtime, size)
            request = workshop.changed(search.keep, **dict.fromkeys(search.changes, True))
            with working("the export's own check of the mended artifact"):
                checked = workshop.checked(search.mended, request)
            if output is not None:
                mended = checked or search.mended
                _write(mended, output, workshop.weights, request.record())
            command = export_command(request, output or "mended", check=checked is not None)
            facts |= {
                "mended_sha256": search.mended.manifest.file_sha256,
                "command": command,
                "keep": search.keep,
                "changes": search.changes,
            }
    return Bisection(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        toolkit=__version__,
        artifact=str(artifact.path),
        artifact_sha256=artifact.manifest.file_sha256,
        precision=artifact.manifest.precision,
        runtime=runtime,
        gate=gate,
        agreement=agreement,
        images=compared.rows,
        source=compared.inputs[0].name,
        outcome=ended,
        reason=reason,
        damage=search.table(),
        attempts=tuple(search.attempts),
        **facts,
    )


@dataclass
class _Search:
    """The state of one search.

    Attributes:
        artifact: what is searched.
        workshop: makes the candidates.
        judge: judges them.
        say: called with one line for each.
        attempts: what was judged, in order.
        damage: of each block.
        keep, changes, mended: of the best candidate that passed.
        base: free changes that the search for blocks builds on: they lose less, but too much.
        free: all that can be made.
        first: the comparison of ``artifact`` itself.
    """

    artifact: Artifact
    workshop: Workshop
    judge: Judge
    say: Callable[[str], None]
    attempts: list[Attempt] = field(default_factory=list)
    damage: dict[str, float] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    mended: Artifact | None = None
    base: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    first: Parity = field(init=False)
    _last: Artifact = field(init=False)
    _took_s: float = 0.0

    def run(self) -> tuple[Outcome, str]:
        """How it ends, and why in a sentence."""
        attempt, self.first = self.judge(self.artifact)
        self.attempts.append(attempt)
        if attempt.passed:
            return "passes", "it meets the gate: there is nothing to mend"
        self.say(f"misses its gate: {'; '.join(attempt.failures)}")
        if self._rebuilt_passes():
            return "elsewhere", (
                "the same export, made again, meets the gate: this file is damaged; export it again"
            )
        whole = self._judged(self.workshop.float_request(), "fp32", changes=("fp32",))
        if not whole.passed:
            return "elsewhere", (
                f"the float32 network misses it, too ({'; '.join(whole.failures)}): the fault is"
                " not in the precision of a block"
            )
        if self._mended_for_free():
            verb = "mends" if len(self.changes) == 1 else "mend"
            return "mended", f"{' and '.join(self.changes)} alone {verb} it, which costs no time"
        self._measure()
        price = self.workshop.macs_share
        order = by_worth(self.damage, price)
        most = most_builds(len(order))
        took = most * self._took_s / max(1, len(self.attempts) - 1)
        self.say(
            f"searching {len(order)} blocks: {most} builds at most, about {took:.0f} s, and a few"
            " that try to do with less"
        )
        found = shortest_prefix(order, self._meets)
        if found is None:
            return "float-only", (
                f"only with all of its {len(order)} blocks in float does it meet the gate: that is"
                " an artifact of a wider precision"
            )
        kept = without_spares(found, price, self._meets, needed=1)  # the prefix missed without it
        if self.free != self.base and len(kept) > 1:  # without any block they missed
            # Free changes that mend one of several faults may show in no error of the whole.
            kept = without_spares(kept, price, lambda fewer: self._meets(fewer, self.free))
        share = sum(price[name] for name in kept)
        beside = f"with {' and '.join(self.changes)}, " if self.changes else ""
        return "mended", (
            f"{beside}{', '.join(kept)} must stay float: {share:.1%} of the multiply-accumulates"
        )

    def table(self) -> tuple[Damage, ...]:
        """What each block loses, worst first."""
        share = self.workshop.macs_share
        return tuple(
            Damage(
                block=name,
                error=error if math.isfinite(error) else None,
                macs_share=share[name],
                kept=name in self.keep,
            )
            for name, error in sorted(self.damage.items(), key=lambda item: -item[1])
        )

    def _rebuilt_passes(self) -> bool:
        """Whether the same request gives another file, which passes."""
        if self.artifact.manifest.engine is not None:  # no two builds of one give the same bytes
            return False
        try:
            with working("the same export again"):
                again = self.workshop.build(self.workshop.request)
        except GateFailed:  # today's export refuses it
            return False
        if again.manifest.file_sha256 == self.artifact.manifest.file_sha256:
            return False
        attempt, _ = self.judge(again)
        self.attempts.append(attempt)
        return attempt.passed

    def _mended_for_free(self) -> bool:
        if not self.artifact.manifest.quantized:
            return False
        least = self.attempts[0].mean_error
        tried: tuple[str, ...] = ()
        for name in FREE:
            if getattr(self.workshop.request, name):
                continue
            tried = (*tried, name)
            if self._meets((), tried):
                return True
            if self.attempts[-1].artifact_sha256 is not None:  # it can be made
                self.free = tried
            error = self.attempts[-1].mean_error
            if error is not None and (least is None or error < least):
                self.base, least = tried, error
        return False

    def _measure(self) -> None:
        judge, manifest = self.judge, self.artifact.manifest
        size = judge.batch or manifest.batch.min
        compared = comparison_for(
            self.artifact, judge.weights, judge.images, size, judge.seed, judge.images_from
        )
        changes = dict.fromkeys(self.base, True)
        rows = range(min(IMAGES, compared.count))
        with steps("what each block loses") as announce:
            self.damage = damages(
                list(self.workshop.blocks),
                lambda block: self.workshop.alone(block, **changes),
                compared.inputs(manifest)[: len(rows)],
                compared.logits(rows=rows),
                announce,
            )

    def _meets(self, keep: tuple[str, ...], changes: tuple[str, ...] | None = None) -> bool:
        changes = self.base if changes is None else changes
        request = self.workshop.changed(keep, **dict.fromkeys(changes, True))
        what = ", ".join([*changes, *(f"{name} float" for name in keep)])
        attempt = self._judged(request, what, keep, changes)
        if attempt.passed:
            self.keep, self.changes, self.mended = keep, changes, self._last
        return attempt.passed

    def _judged(
        self,
        request: ExportRequest,
        what: str,
        keep: tuple[str, ...] = (),
        changes: tuple[str, ...] = (),
    ) -> Attempt:
        number = len(self.attempts)
        began = time.monotonic()
        with working(f"build {number}: {what}"):
            try:
                self._last = self.workshop.build(request)
                attempt, _ = self.judge(self._last, keep, changes)
            except GateFailed as exc:  # while it was made
                attempt = Attempt(keep=keep, changes=changes, passed=False, failures=(exc.message,))
        self.attempts.append(attempt)
        took_s = time.monotonic() - began
        self._took_s += took_s
        ended = "meets the gate" if attempt.passed else f"misses: {attempt.failures[0]}"
        self.say(f"build {number} ({what}, {took_s:.0f} s) {ended}")
        return attempt


def _write(
    artifact: Artifact, output: Path, weights: Weights, request: dict[str, Any] | None
) -> None:
    """Copy an artifact, with the request that makes it again; what was judged is what is there."""
    with staging(output) as folder:
        artifact.write_to(folder)
        if request and request.get("conformance_kit"):
            write_kit(folder / KIT_NAME, weights)
        seal(folder, artifact.manifest.model_copy(update={"request": request}))
