"""The command ``resnext-classify``: from image files to class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resnext.runtimes.registry import ARTIFACT_RUNTIMES
from resnext.storage import check_writable, write_text
from resnext.version import __version__

from .app import SETTINGS, as_flags, echo, guarded
from .options import (
    OUTPUT,
    artifact_option,
    backend_option,
    chosen_weights,
    json_option,
    preprocessing_options,
    requested_preprocessing,
    trust_options,
    weights_options,
)
from .sections import SectionedCommand, option_of

_EPILOG = """\b
Examples:
  resnext-classify digit.png --weights digits
  resnext-classify photo.jpg --artifact engine/ --backend ort --top 5
  resnext-classify a.png b.png --weights fashion-mnist --json -
  resnext-classify photo.jpg --weights trained.pth --crop 0.95 --interpolation bicubic
"""


@click.command(cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@artifact_option("Artifact to run, instead of --weights in PyTorch.")
@backend_option(
    ("torch", *ARTIFACT_RUNTIMES),
    "Runtime.  [default: torch for weights, else the artifact's natural one]",
)
@weights_options
@preprocessing_options
@option_of(OUTPUT)(
    "--top",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of classes to show for each image.",
)
@json_option("Write the result as JSON")
@click.version_option(__version__, prog_name="resnext-classify")
@guarded
@trust_options
def main(
    images: tuple[Path, ...],
    artifact: Path | None,
    backend: str | None,
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None,
    top: int,
    json_path: str | None,
    **pixels: Any,
) -> None:
    """Classify image files with the preprocessing that the weights or the artifact declare."""
    import json

    import numpy as np

    from resnext.errors import SessionFailed, UsageError
    from resnext.runtimes.registry import natural_runtime, open_session
    from resnext.runtimes.session import Session
    from resnext.verify.assumed import assumed

    check_writable(json_path)
    session: Session
    requested, input_size = requested_preprocessing(
        pixels, input_size, of_artifact=artifact is not None
    )
    if artifact is not None:
        from resnext.artifact.foreign import open_artifact

        if any(
            option is not None for option in (model, spec, num_classes, input_size, weights_key)
        ):
            raise UsageError(
                "an artifact has its own weights; drop --model, --weights, --weights-key,"
                " --num-classes, --input-size"
            )
        opened = open_artifact(artifact)
        manifest = opened.manifest
        preprocessing, names, baked = (
            manifest.prepared,
            manifest.class_names,
            manifest.preprocessing_baked,
        )
        least, source = manifest.batch.min, manifest.weights.source
        caveat = assumed(preprocessing, manifest.preprocessing_source)
        session = open_session(opened, backend or natural_runtime(opened))
    else:
        if backend not in (None, "torch"):
            raise UsageError(f"backend {backend!r} runs an exported artifact: give --artifact")
        weights = chosen_weights(model, spec, num_classes, input_size, weights_key, requested)
        preprocessing, names, baked = weights.preprocessing, weights.class_names, False
        caveat = assumed(preprocessing, weights.preprocessing_source)
        least, source = 1, weights.source
        session = open_session(weights, "torch")
    if source.startswith("seeded"):
        click.echo("warning: seeded weights are not trained; these classes mean nothing", err=True)
    if caveat is not None:
        echo(f"warning: {as_flags(str(caveat))}", err=True)
    rows = []
    with session:
        image_spec, logits_spec = session.inputs[0], session.outputs[0]
        fixed = image_spec.shape[0] or least
        for image in images:
            seen = preprocessing.load(image)
            array = seen if baked else image_spec.cast(preprocessing.normalize(seen))
            # A fixed batch is filled with copies; the first row is the answer.
            batch = {image_spec.name: np.repeat(array, fixed, axis=0)}
            logits = session.run(batch)[logits_spec.name][0].astype(np.float64)
            if not np.isfinite(logits).all():
                raise SessionFailed(f"the network gave NaN or infinite logits for {image}")
            odds = np.exp(logits - logits.max())
            odds /= odds.sum()
            best = np.argsort(-odds, kind="stable")[:top]
            rows.append(
                {
                    "image": str(image),
                    "classes": [
                        {
                            "index": int(i),
                            "name": names[i] if names else None,
                            "probability": float(odds[i]),
                        }
                        for i in best
                    ],
                }
            )
    if json_path is not None:
        write_text(json_path, json.dumps(rows, indent=2) + "\n")
    if json_path == "-":
        return
    for row in rows:
        classes = row["classes"]
        assert isinstance(classes, list)
        text = ", ".join(
            f"{c['name'] or 'class ' + str(c['index'])} {c['probability']:.1%}" for c in classes
        )
        echo(f"{row['image']}: {text}")


if __name__ == "__main__":
    main()
