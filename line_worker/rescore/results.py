"""Where `rescore` leaves its verdicts: a JSON object a line, or a Parquet file, whole or not at all under its name.

While it runs they lie in NAME.part as lines; an interrupted run goes on from there.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

from line_worker.errors import ConfigError

FLUSHED = 50  # lines
FIELDS = {
    "number": "int64",
    "source": "string",
    "name": "string",
    "outcome": "string",
    "reason": "string",
    "score": "float64",
    "threshold": "float64",
    "p_value": "float64",
    "boxes": "boxes",
    "bundle": "string",
}


class Results:
    """The verdicts of one run, in order. `done`: how many there are; `left`: those of an interrupted run.

    sources: the source and the name of every picture that is to be judged, in order. Raises ConfigError when `path` is
    there already, cannot be written or be of its kind here, or when what was left is not the beginning of this run.
    """

    def __init__(self, path: Path, bundle: str, sources: Iterable[tuple[str, str]], resume: bool) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        _check_kind(path)
        if path.exists():
            raise ConfigError(str(path), ["is there already and is not overwritten"])
        try:
            self.left, size = _left(self.part, bundle, sources, resume)
            self._file = self.part.open("ab")
            self._file.truncate(size)
        except OSError as error:
            raise ConfigError(str(self.part), [f"cannot be written ({error.strerror}); nothing was judged"]) from error
        self.done = len(self.left)

    def add(self, verdict: dict[str, Any]) -> None:
        """Write one."""
        self._file.write(json.dumps(verdict).encode() + b"\n")
        self.done += 1
        if self.done % FLUSHED == 0:
            self._file.flush()

    def stop(self) -> None:
        """Leave what there is for another run; nothing happens after `finish`."""
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


class Left(NamedTuple):
    """What is kept of a verdict that was there from before."""

    name: str
    outcome: str


def _left(part: Path, bundle: str, sources: Iterable[tuple[str, str]], resume: bool) -> tuple[list[Left], int]:
    """Return the verdicts in `part` up to the first whose line was cut, and the bytes that they take."""
    left, size = list[Left](), 0
    if not part.exists():
        return left, size
    if not resume and part.stat().st_size:
        why = "holds the verdicts of a run that was interrupted: go on with it with --resume, or delete this file"
        raise ConfigError(str(part), [why])
    with part.open("rb") as file:
        for line, asked in zip(file, chain(sources, repeat(None))):  # noqa: B905 - the second has no end
            if not line.endswith(b"\n"):
                break
            verdict = _checked(part, line, len(left), bundle, asked)
            left.append(Left(verdict["name"], verdict["outcome"]))
            size += len(line)
    return left, size


def _checked(part: Path, line: bytes, number: int, bundle: str, asked: tuple[str, str] | None) -> dict[str, Any]:
    """Return the verdict in a line; raises ConfigError for what is none, or is not what this run would write there."""
    try:
        verdict = json.loads(line)
    except ValueError:
        verdict = None
    problem = ""
    if not isinstance(verdict, dict) or verdict.keys() != set(FIELDS) or verdict["number"] != number:
        problem = f"line {number + 1} is not verdict {number} of a rescore by this version"
    elif verdict["bundle"] != bundle:
        problem = "holds verdicts of another bundle"
    elif (verdict["source"], verdict["name"]) != asked:
        there = "nothing any more" if asked is None else f"{asked[1]} of {asked[0]}"
        problem = f"verdict {number} is on {verdict['name']} of {verdict['source']}, where the sources now have {there}"
    if problem:
        advice = "nothing was judged; give what the interrupted run was given, or delete this file to begin anew"
        raise ConfigError(str(part), [f"{problem}; {advice}"])
    return dict(verdict)


def _write_parquet(lines: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
    kinds["boxes"] = pa.list_(pa.list_(pa.int32()))
    schema = pa.schema([(name, kinds[kind]) for name, kind in FIELDS.items()])
    with lines.open(encoding="utf-8") as file:
        table = pa.Table.from_pylist([_as_text(json.loads(line)) for line in file], schema)
    half = path.with_name(path.name + ".half")
    pq.write_table(table, half)
    half.rename(path)


def _as_text(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict with names that are text: bytes of a file's name that are no UTF-8 become \\xNN."""
    names = {name: os.fsencode(verdict[name]).decode("utf-8", "backslashreplace") for name in ("source", "name")}
    return verdict | names
