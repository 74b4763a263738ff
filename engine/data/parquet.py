"""Rows out of a parquet file, in batches that stay small whatever the file unpacks to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.data.texts import LARGEST_TEXT, LONGEST_LINE, Numbered, mend_words
from engine.errors import DatasetError, first_line
from engine.i18n import _

MOST_PACKED = 200
"""Text shrinks to a tenth, seldom to a fiftieth; a parquet file that unpacks to this many times its size, and to more than a
gigabyte, is made to fill a memory."""

MOST_SHOWN = 50
"""Names of columns in one error."""


def parquet_rows(path: Path, skip: Callable[[int], bool]) -> Numbered:
    """The rows of a parquet file. Raises DatasetError where it is not sound or unpacks to far more than its size."""
    import pyarrow
    import pyarrow.parquet

    number = unpacked = 0
    limit = max(LARGEST_TEXT, MOST_PACKED * path.stat().st_size)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _need_names_once(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_rows_at_a_time(file.metadata)):
                unpacked += batch.nbytes
                if unpacked > limit:
                    raise ValueError(_("it unpacks to more than {factor} times its size").format(factor=MOST_PACKED))
                for row in batch.to_pylist():
                    number += 1
                    if not skip(number):
                        yield number, unpadded(row)
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DatasetError(
            _("{path}: is no sound parquet file").format(path=path.name), first_line(error), mend_words()
        ) from None


def _need_names_once(path: Path, names: Sequence[str]) -> None:
    """Of two columns of one name a row would silently have the last."""
    if len(set(names)) < len(names):
        raise DatasetError(
            _("{path}: a column name stands twice").format(path=path.name),
            ", ".join(names[:MOST_SHOWN]),
            _("Rename one of them."),
        )


def unpadded(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was before Arrow held it. There all structs of a column have the same fields, and what one of them lacks is null:
    the arguments of one tool's call would be those of another's too. A null that was meant looks the same and goes with them."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _rows_at_a_time(metadata: Any) -> int:
    """So few rows that a batch stays small whatever the file unpacks to. Raises ValueError where one row alone would be too large."""
    rows = max(1, metadata.num_rows)
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > rows * LONGEST_LINE:
        raise ValueError(_("its rows unpack to {size} MiB each").format(size=unpacked // rows >> 20))
    return int(max(1, min(128, rows * LONGEST_LINE // max(1, unpacked))))
