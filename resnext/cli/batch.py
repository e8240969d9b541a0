"""The command ``resnext-batch``: from many pictures to files of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from resnext.runtimes.registry import ARTIFACT_RUNTIMES
from resnext.version import __version__

from .app import SETTINGS, as_flags, echo, guarded
from .options import OUTPUT, artifact_option, backend_option, trust_options
from .params import MinutesType
from .sections import SectionedCommand, option_of

_EPILOG = """\b
Examples:
  resnext-batch photos/ --artifact engine/ --output rows/
  resnext-batch shards/ --artifact engine/ --output rows/ --workers 4     tar files
  resnext-batch train.parquet --artifact engine/ --output rows/ --format parquet
  resnext-batch /data/shards --artifact engine/ --output /data/rows --ray auto
  resnext-batch photos/ --artifact engine/ --output rows/                 again: goes on

\b
Exit code 0: every picture has a row, with classes or with an error. 4: a shard has no part, or no
picture has a result. 130: interrupted; finished shards are kept.
"""
_SPEED = "Speed"


@click.command(cls=SectionedCommand, context_settings=SETTINGS, epilog=_EPILOG)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@artifact_option("Artifact to run.", required=True)
@backend_option(ARTIFACT_RUNTIMES, "Runtime.  [default: the artifact's natural one]")
@option_of(OUTPUT)(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for parts, receipts and summary.json. That of an earlier run is continued.",
)
@option_of(OUTPUT)(
    "--format",
    type=click.Choice(["jsonl", "parquet"]),
    default="jsonl",
    show_default=True,
    help="Format of the parts; parquet needs pyarrow.",
)
@option_of(OUTPUT)(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of classes in each row.",
)
@option_of(OUTPUT)("--logits", is_flag=True, help="All logits in each row, too.")
@option_of(_SPEED)(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images in one run.  [default: 32, or the nearest that the artifact takes]",
)
@option_of(_SPEED)(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of each session.  [default: what decoding leaves]",
)
@option_of(_SPEED)(
    "--decode-threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of each worker that read and decode.  [default: a quarter of the CPU's, or all"
    " of them beside a GPU]",
)
@option_of(_SPEED)(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Sessions, each in a process with its share of the threads.  [default: 1; with --ray, one"
    " a node, or a GPU]",
)
@option_of(_SPEED)(
    "--ray",
    metavar="ADDRESS",
    help="Work on the nodes of a Ray cluster, which see INPUT and DIR under the same paths.",
)
@option_of(_SPEED)(
    "--patience",
    type=MinutesType(),
    default="30",
    show_default=True,
    metavar="MINUTES",
    help="Silence after which a worker counts as hung.",
)
@click.version_option(__version__, prog_name="resnext-batch")
@guarded
@trust_options
def main(
    source: Path,
    artifact: Path,
    backend: str | None,
    output: Path,
    format: Literal["jsonl", "parquet"],
    top: int,
    logits: bool,
    batch: int | None,
    threads: int | None,
    decode_threads: int | None,
    workers: int | None,
    ray: str | None,
    patience: float,
) -> None:
    """Classify the pictures of INPUT: a folder, tar files, or Parquet.

    Each shard of INPUT becomes a part, a file of rows, and a receipt. The same command again goes
    on with the shards that are not finished. A picture that cannot be read is a row with an error.
    """
    from resnext.artifact.foreign import open_artifact
    from resnext.batch.run import classify_shards
    from resnext.progress import steps
    from resnext.verify.assumed import assumed

    opened = open_artifact(artifact)
    manifest = opened.manifest
    caveat = assumed(manifest.prepared, manifest.preprocessing_source)
    if caveat is not None:
        echo(f"warning: {as_flags(str(caveat))}", err=True)
    with steps("starting") as say:
        try:
            summary = classify_shards(
                opened,
                source,
                output,
                backend=backend,
                batch=batch,
                top=top,
                logits=logits,
                format=format,
                threads=threads,
                decode_threads=decode_threads,
                workers=workers,
                ray=ray,
                patience_s=60 * patience,
                progress=say,
            )
        except KeyboardInterrupt:
            echo("finished shards are kept, and the same command goes on with the others", err=True)
            raise
    parts = len(summary.shards) - summary.earlier
    earlier = f", {summary.earlier} were finished before" if summary.earlier else ""
    echo(f"{summary.rows} rows in {len(summary.shards)} parts in {output}: {parts} new{earlier}")
    if summary.failures:
        echo(f"{summary.failures} pictures have no result; their rows say why")
    if summary.superseded:
        echo(
            f"{summary.superseded} files of shards that are not in {source} any more are in"
            f" {output / 'superseded'}"
        )
    if summary.verdict:
        done = summary.images_per_s
        echo(f"{done:.3g} images/s, {as_flags(summary.verdict)}")


if __name__ == "__main__":
    main()
