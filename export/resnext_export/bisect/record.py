"""What a search for the bad blocks found, as it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from resnext.artifact.manifest import Sha256
from resnext.artifact.specs import Strict
from resnext.errors import BadInput
from resnext.readers.files import MOST_JSON, read_file

Positive = Annotated[float, Field(gt=0)]
#: How a search ends: nothing to mend; mended; mended only by a float network; not by precision.
Outcome = Literal["passes", "mended", "float-only", "elsewhere"]
_WORDS = {
    "passes": "PASS",
    "mended": "MENDED",
    "float-only": "NOT MENDED",
    "elsewhere": "NOT MENDED",
}


class Damage(Strict):
    """What low precision in one block alone does.

    Attributes:
        block: its name; the stem and the classifier stand alone.
        error: root mean square of the logits' error if only this block is in low precision, over
            that of the reference logits; None if they are not finite.
        macs_share: its share of the multiply-accumulates, which stands for what keeping it costs.
        kept: it is float in the mended artifact.
    """

    block: str
    error: float | None = Field(ge=0)
    macs_share: float = Field(gt=0, le=1)
    kept: bool = False


class Attempt(Strict):
    """An artifact that was built and judged.

    Attributes:
        keep: blocks and layers that stay float.
        changes: other fields of the request that were changed, for example ``equalize``; ``fp32``
            is the float network.
        passed: it met the gate.
        failures: the limits that it missed, one line each.
        mean_error: mean difference to the reference, over the root mean square of that; None if
            nothing could be compared.
        top1: share of images whose first class is the reference's; None likewise.
        artifact_sha256: digest of its file; None if it was refused while it was made.
    """

    keep: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    passed: bool
    failures: tuple[str, ...] = ()
    mean_error: float | None = None
    top1: float | None = None
    artifact_sha256: Sha256 | None = None

    @property
    def what(self) -> str:
        """What was changed for it."""
        changes = (*self.changes, *(f"{name} float" for name in self.keep))
        return ", ".join(changes) or "the same again"


class Price(Strict):
    """What the mended artifact costs, measured against the original in turns.

    Attributes:
        batch: images in one run.
        rounds: each visits both, there and back.
        original_ms: median time of a run of the original.
        mended_ms: that of the mended one.
        ratio: of the mended one's time to the original's (Hodges-Lehmann); above 1 is slower.
        low: lower end of its 95 % interval (Wilcoxon's signed ranks).
        high: upper end.
    """

    batch: int = Field(ge=1)
    rounds: int = Field(ge=1)
    original_ms: Positive
    mended_ms: Positive
    ratio: Positive
    low: Positive
    high: Positive

    def __str__(self) -> str:
        """The mended artifact's time relative to the original's, with its interval."""
        return (
            f"{self.ratio:.2f} times the original's time (95 %: {self.low:.2f} to {self.high:.2f}):"
            f" {self.original_ms:.3f} ms became {self.mended_ms:.3f} ms at batch {self.batch}"
        )


class Bisection(Strict):
    """One search.

    Attributes:
        format_version: version of this format; readers refuse any other.
        created: UTC time, ISO 8601.
        toolkit: version of this toolkit.
        artifact: path of the artifact's file.
        artifact_sha256: its digest.
        precision: its precision.
        runtime: what judged it.
        gate: name of the gate.
        agreement: least share of images whose first class must be the reference's, or None.
        images: number of images that were compared, and where they come from.
        source: where they come from.
        outcome: how it ended.
        reason: the outcome in a sentence.
        damage: the blocks, worst first; empty if nothing was searched.
        attempts: everything that was judged, in order; the first is the artifact itself.
        keep: blocks that stay float in the mended artifact.
        changes: other fields of its request that were changed.
        mended_sha256: digest of the mended artifact's file, or None.
        price: what it costs; None without one, or if the runtime's time means nothing.
        command: makes the mended artifact again; "" without one.
    """

    format_version: Literal[1] = 1
    created: str
    toolkit: str
    artifact: str
    artifact_sha256: Sha256
    precision: str
    runtime: str
    gate: str
    agreement: float | None = Field(default=None, gt=0, le=1)
    images: int = Field(ge=1)
    source: str
    outcome: Outcome
    reason: str
    damage: tuple[Damage, ...] = ()
    attempts: tuple[Attempt, ...] = Field(min_length=1)
    keep: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    mended_sha256: Sha256 | None = None
    price: Price | None = None
    command: str = ""

    @property
    def word(self) -> str:
        """How it ended, in capitals."""
        return _WORDS[self.outcome]

    @property
    def passed(self) -> bool:
        """Whether there is an artifact that meets the gate: this one, or a mended one."""
        return self.outcome in ("passes", "mended")

    @property
    def builds(self) -> int:
        """Number of artifacts that were built and judged, the float network aside."""
        return sum(each.changes != ("fp32",) for each in self.attempts[1:])

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=2) + "\n"


def read_bisection(path: Path) -> Bisection:
    """Read a stored search.

    Raises:
        BadInput: it is missing, or not one.
    """
    data = read_file(path, MOST_JSON, BadInput)
    try:
        return Bisection.model_validate_json(data, strict=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        raise BadInput(f"{path} is no search for bad blocks: {field}: {first['msg']}") from exc
