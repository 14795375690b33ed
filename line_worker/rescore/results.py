"""Where `rescore` leaves its verdicts: a JSON object a line, or a Parquet file, whole or not at all under its name.

While it runs they lie in NAME.part as lines; an interrupted run goes on from there.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from line_worker.errors import ConfigError

FLUSHED = 50  # lines


class Results:
    """The verdicts of one run, in order. `done`: how many an interrupted run left.

    Raises ConfigError when `path` is there already, cannot be of its kind here, or what was left is of another bundle.
    """

    def __init__(self, path: Path, bundle: str, resume: bool) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        _check_kind(path)
        if path.exists():
            raise ConfigError(str(path), ["is there already and is not overwritten"])
        left = list(_whole_lines(self.part)) if resume and self.part.exists() else []
        if any(json.loads(line)["bundle"] != bundle for line in left):
            raise ConfigError(str(self.part), ["holds verdicts of another bundle; move it away, or leave --resume out"])
        self.done = len(left)
        self.part.write_text("".join(left), "utf-8")
        self._file = self.part.open("a", encoding="utf-8")

    def add(self, verdict: dict[str, Any]) -> None:
        """Write one."""
        self._file.write(json.dumps(verdict) + "\n")
        self.done += 1
        if self.done % FLUSHED == 0:
            self._file.flush()

    def stop(self) -> None:
        """Leave what there is for another run."""
        self._file.close()

    def finish(self) -> None:
        """Give the results their name."""
        self._file.close()
        if self.path.suffix == ".parquet":
            _write_parquet(self.part, self.path)
            self.part.unlink()
        else:
            self.part.rename(self.path)


def _check_kind(path: Path) -> None:
    if path.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(str(path), ["is neither .jsonl nor .parquet"])
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(str(path), ["Parquet needs pyarrow: pip install line-worker[parquet]"])


def _whole_lines(path: Path) -> Iterator[str]:
    """Yield lines up to the first that was cut."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield line


def _write_parquet(lines: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("number", pa.int64()),
            *((name, pa.string()) for name in ("source", "name", "outcome", "reason")),
            *((name, pa.float64()) for name in ("score", "threshold", "p_value")),
            ("boxes", pa.list_(pa.list_(pa.int32()))),
            ("bundle", pa.string()),
        ]
    )
    with lines.open(encoding="utf-8") as file:
        table = pa.Table.from_pylist([json.loads(line) for line in file], schema)
    half = path.with_name(path.name + ".half")
    pq.write_table(table, half)
    half.rename(path)
