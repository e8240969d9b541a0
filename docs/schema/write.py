"""Write the JSON Schemas of the stored files: ``python docs/schema/write.py [FOLDER]``; the default
is this folder.

Run it after a change of a stored model; a test holds the files and the models equal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from resnext.artifact.manifest import Manifest
from resnext.batch.receipt import Receipt
from resnext.batch.summary import Summary
from resnext.verify.verdict import Verdict
from resnext_bench.ab.record import Duel
from resnext_bench.comparison.result import Comparison
from resnext_bench.explain.record import ExplanationRecord
from resnext_bench.fleet.plan_file import PlanFile
from resnext_bench.fleet.results import Loss
from resnext_bench.history.result import History
from resnext_bench.result import Run
from resnext_bench.tune.result import Tuned
from resnext_export.bisect.record import Bisection

#: The stored models by the name of their schema; the number is the format_version.
MODELS: dict[str, type[BaseModel]] = {
    "ab-1.json": Duel,
    "batch-1.json": Summary,
    "batch-receipt-1.json": Receipt,
    "bisect-1.json": Bisection,
    "compare-1.json": Comparison,
    "explain-1.json": ExplanationRecord,
    "history-1.json": History,
    "loss-1.json": Loss,
    "manifest-1.json": Manifest,
    "plan-1.json": PlanFile,
    "run-1.json": Run,
    "tune-1.json": Tuned,
    "verdict-1.json": Verdict,
}


def main(folder: Path) -> None:
    """Write every schema into ``folder``."""
    for name, model in MODELS.items():
        text = json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
