"""Files of rows: JSON Lines or Parquet, written row by row and never held whole in memory."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import BinaryIO

from typing_extensions import Self

from resnext.errors import MissingRequirement
from resnext.machine.faults import environment_fault

from .request import Format
from .rows import Row

#: Rows of a row group.
_GROUP_ROWS = 2048


class Part(ABC):
    """Rows on their way into a file: a context manager that is whole if its block is.

    Args:
        file: open for writing; the caller closes it.
        logits: rows have all logits.
    """

    def __init__(self, file: BinaryIO, *, logits: bool) -> None:
        self._file, self._logits = file, logits

    @abstractmethod
    def append(self, rows: Sequence[Row]) -> None:
        """Write ``rows``."""

    def finish(self) -> None:  # noqa: B027  # not abstract: nothing may be left
        """Write what is left."""

    def abandon(self) -> None:  # noqa: B027  # not abstract: nothing may be open
        """Write no more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon()


class JsonLinesPart(Part):
    """One JSON object a line."""

    def append(self, rows: Sequence[Row]) -> None:
        """Write ``rows``."""
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


class ParquetPart(Part):
    """The columns of a row; labels are texts."""

    def __init__(self, file: BinaryIO, *, logits: bool) -> None:
        super().__init__(file, logits=logits)
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.struct(
            [("index", pa.int32()), ("name", pa.string()), ("probability", pa.float64())]
        )
        fields = [
            ("key", pa.string()),
            ("label", pa.string()),
            ("classes", pa.list_(kind)),
            *([("logits", pa.list_(pa.float64()))] * logits),
            ("error", pa.string()),
        ]
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(file, self._schema)
        self._rows: list[Row] = []

    def append(self, rows: Sequence[Row]) -> None:
        """Write ``rows``, once there are enough for a row group."""
        self._rows += rows
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Let the writer forget the file, which it would end when it is collected."""
        self._writer.is_open = False

    def _flush(self) -> None:
        import pyarrow as pa

        rows = [
            row | {"label": None if row["label"] is None else str(row["label"])}
            for row in self._rows
        ]
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))
        self._rows = []


#: How parts are written, by the name of the format.
FORMATS: Mapping[Format, type[Part]] = MappingProxyType(
    {"jsonl": JsonLinesPart, "parquet": ParquetPart}
)


def check_format(format: Format) -> None:
    """Check before long work that parts of ``format`` can be written here.

    Raises:
        MissingRequirement: pyarrow is not installed.
    """
    if format == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401  # whether it loads
        except ImportError as exc:
            raise environment_fault(exc) or MissingRequirement(
                "Parquet needs the Python package pyarrow", hint="pip install pyarrow"
            ) from exc
