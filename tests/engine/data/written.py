"""Rows, and the bytes of files that hold them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

ROWS = [
    {"prompt": 'What burns, "there"?', "completion": "The lamp,\nwhen fog comes."},
    {"prompt": "谁在看守?", "completion": "我们 🙂"},
    {"prompt": "Home?", "completion": "\tShips turn home."},
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["prompt", "completion"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


GOOD = b'{"text": "lamp"}\n'
