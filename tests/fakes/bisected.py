"""Searches for bad blocks, for tests of what their user sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnext_export.bisect.record import Attempt, Bisection, Damage, Price

_SHA = "ab" * 32


def mended(**facts: Any) -> Bisection:
    """One of four blocks is bad, and another not finite; found in four builds."""
    blocks = ("layer2.0", None), ("layer1.0", 0.31), ("fc", 4.2e-3), ("conv1", 0.0)
    bad = ("layer2.0", "layer1.0")
    whole: dict[str, Any] = {
        "created": "2026-11-28T09:00:00+00:00",
        "toolkit": "1.0",
        "artifact": "int8/model.onnx",
        "artifact_sha256": _SHA,
        "precision": "int8",
        "runtime": "ort-cpu",
        "gate": "default",
        "agreement": 0.99,
        "images": 500,
        "source": "digits",
        "outcome": "mended",
        "reason": "layer2.0, layer1.0 must stay float: 50.0% of the multiply-accumulates",
        "damage": tuple(
            Damage(block=name, error=error, macs_share=0.25, kept=name in bad)
            for name, error in blocks
        ),
        "attempts": (
            missed((), top1=0.41, error=0.7),
            met((), changes=("fp32",), top1=1.0, error=1e-6),
            missed((), changes=("equalize",), top1=None, error=None),
            missed(("layer2.0",), top1=0.87, error=0.2),
            met(bad, top1=0.998, error=0.01),
        ),
        "keep": bad,
        "mended_sha256": _SHA,
        "price": Price(
            batch=8, rounds=12, original_ms=3.1, mended_ms=4.03, ratio=1.3, low=1.28, high=1.33
        ),
        "command": "resnext-export --weights digits --keep-fp32 layer2.0,layer1.0 --output good",
    }
    return Bisection(**whole | facts)


def missed(keep: tuple[str, ...], *, error: float | None, **facts: Any) -> Attempt:
    """A build that missed the gate."""
    return Attempt(keep=keep, passed=False, failures=("it is off",), mean_error=error, **facts)


def met(keep: tuple[str, ...], *, error: float | None, **facts: Any) -> Attempt:
    """A build that met it."""
    return Attempt(keep=keep, passed=True, mean_error=error, artifact_sha256=_SHA, **facts)


def _unmended(outcome: str, reason: str, **facts: Any) -> Bisection:
    nothing = {"keep": (), "mended_sha256": None, "price": None, "command": "", "agreement": None}
    damage = tuple(each.model_copy(update={"kept": False}) for each in mended().damage)
    return mended(**{"damage": damage, **nothing, **facts}, outcome=outcome, reason=reason)


def one_block() -> Bisection:
    """A network of one block, on a runtime whose time means nothing."""
    damage = (Damage(block="layer1.0", error=0.5, macs_share=1.0, kept=True),)
    return mended(damage=damage, keep=("layer1.0",), price=None, runtime="onnx-reference")


def lossless() -> Bisection:
    """No block loses anything alone."""
    damage = tuple(each.model_copy(update={"error": 0.0}) for each in mended().damage)
    return mended(damage=damage)


BISECTIONS: dict[str, Callable[[], Bisection]] = {
    "mended": mended,
    "for free": lambda: mended(
        damage=(), keep=(), changes=("equalize",), reason="equalize alone mends it"
    ),
    "one block": one_block,
    "lossless": lossless,
    "float only": lambda: _unmended("float-only", "only with all of its 4 blocks in float"),
    "elsewhere": lambda: _unmended("elsewhere", "the float32 network misses it, too", damage=()),
    "nothing to mend": lambda: _unmended(
        "passes", "it meets the gate", damage=(), attempts=(met((), top1=None, error=None),)
    ),
}


def with_text(text: str) -> Bisection:
    """A search with ``text`` in every string that a user, a runtime or a file can choose."""
    found = mended()
    damage = [each.model_copy(update={"block": each.block + text}) for each in found.damage]
    attempts = [
        each.model_copy(
            update={
                "keep": tuple(name + text for name in each.keep),
                "changes": tuple(name + text for name in each.changes),
                "failures": tuple(line + text for line in each.failures),
            }
        )
        for each in found.attempts
    ]
    strings = ("artifact", "precision", "runtime", "gate", "source", "reason", "command", "created")
    return found.model_copy(
        update={name: getattr(found, name) + text for name in strings}
        | {"damage": tuple(damage), "attempts": tuple(attempts), "keep": (text,)}
    )
