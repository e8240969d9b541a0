"""Is a measured row to be believed? Each reason says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from resnext.network.config import ResNeXtConfig
from resnext.precision import NUMERICS
from resnext.runtimes.session import Delivered
from resnext.verify.delivered import delivered_share, undelivered
from resnext.verify.parity import Parity

from .measure import Samples
from .stats import LEAST_SAMPLES, derive

#: Interquartile range of the rounds' medians, over their median, above which the machine was not
#: steady.
MOST_ROUND_SPREAD = 0.25
#: Layers without the precision asked for that a reason names.
_NAMED = 3

#: Share of the host's time around device-timed runs that their times must add up to. Launch-bound
#: work leaves gaps.
LEAST_ACCOUNTED, MOST_ACCOUNTED = 0.3, 1.05


def reasons_against(
    taken: Samples,
    batch: int,
    parity: Parity | None,
    delivered: Delivered,
    config: ResNeXtConfig,
    precision: str,
    left: frozenset[str] = frozenset(),
    form: str | None = None,
) -> tuple[str, ...]:
    """Why a row is not valid; empty for a valid one.

    Args:
        taken: the samples.
        batch: images in one run.
        parity: of the outputs.
        delivered: what the layers got.
        config: the network.
        precision: asked for, as `Manifest.numerics` has it.
        left: modules that were never meant to be of it.
        form: the runtime that a quantized graph is for.
    """
    found = _unsteady("host", taken.host_ns, batch)
    if taken.device_ns:
        found += _unsteady(str(taken.device_boundary), taken.device_ns, batch)
        accounted = sum(map(sum, taken.device_ns)) / max(sum(taken.device_wall_ns), 1)
        if not LEAST_ACCOUNTED <= accounted <= MOST_ACCOUNTED:
            found.append(
                f"the device times add up to {accounted:.0%} of the time around them: "
                "the events are not around the work"
            )
    if parity is None:
        found.append("its output was not compared")
    elif not parity.passed:
        found.append(f"wrong output: {'; '.join(parity.failures)}")
    proven = parity is not None and parity.passed
    missing = _not_delivered(delivered, config, precision, left, proven=proven)
    hint = "" if form is None else f"; the graph is in the form for {form}: --for makes another"
    found += [line + hint for line in missing]
    return tuple(found)


def _not_delivered(
    delivered: Delivered,
    config: ResNeXtConfig,
    precision: str,
    left: frozenset[str],
    *,
    proven: bool,
) -> list[str]:
    wanted = NUMERICS[precision].compute_dtypes
    missed = [
        (module, got)
        for module, got in undelivered(delivered, config, wanted[0])
        if got not in wanted and module not in left
    ]
    if not missed:
        return []
    if {got for _, got in missed} == {"unknown"}:
        # TensorRT inside ONNX Runtime shows no layers. float32 is proven all the same: nothing less
        # passes its gate.
        if proven and precision == "fp32":
            return []
        return [
            f"{precision} asked for, and this runtime does not tell what its layers got; --backend"
            " trt does"
        ]
    share = sum(delivered_share(delivered, config, dtype) for dtype in wanted)
    share_percent = floor(1000 * share) / 10  # never up: 99.95 % is not 100 %
    named = ", ".join(f"{module} {got}" for module, got in missed[:_NAMED])
    more = f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else ""
    return [
        f"{precision} asked for, but only {share_percent} % of convolution and product FLOPs got "
        f"{' or '.join(wanted)}: {named}{more}"
    ]


def _unsteady(boundary: str, rounds_ns: Sequence[Sequence[int]], batch: int) -> list[str]:
    found = []
    stats = derive(rounds_ns, batch)
    if stats.count < LEAST_SAMPLES[50]:
        found.append(
            f"only {stats.count} {boundary} samples, a median needs {LEAST_SAMPLES[50]}: give"
            " --samples or --duration"
        )
    if stats.min_ns <= 0:
        found.append(
            f"a {boundary} run took no time by the clock: it did nothing, or the clock is broken"
        )
    if stats.round_spread > MOST_ROUND_SPREAD:
        found.append(
            f"the medians of the {boundary} rounds spread by {stats.round_spread:.0%}: the machine"
            " was not steady; stop other work or give a longer --duration"
        )
    return found
