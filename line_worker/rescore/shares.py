"""Rescore: judge recordings and folders again, on all cores, away from any line.

Every process reads the sources by itself and judges every n-th picture on one thread, so the results are those of one
process to the last bit, in the same order; only verdicts travel between them, a JSON object a line. A process that dies
ends the run with its reason; what was found until then is in the output, and `resume` goes on behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from line_worker.errors import ConfigError, ImageError, LineWorkerError
from line_worker.images import read_image
from line_worker.scoring import find
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire.messages import Outcome
from line_worker.wire.recording import RecordedFrame, read_recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.vision.inspection import Inspection


class Picture(NamedTuple):
    """A picture of a source: its name (a path, or a recorded part's key), pixels, or why there are none."""

    source: str
    name: str
    pixels: NDArray[Any] | None
    reason: Reason = Reason.NONE


def pictures(sources: Sequence[Path], share: int = 0, of: int = 1) -> Iterator[tuple[int, Picture]]:
    """Yield every `of`-th picture from number `share` on, with its number.

    Raises ConfigError for a source that is neither a recording, an image nor a folder of images, RecordingError for a
    recording that cannot be read.
    """
    for number, (source, item) in enumerate(_found(sources)):
        if number % of == share:
            yield number, _recorded(source, item) if isinstance(item, RecordedFrame) else _file(source, item)


def names(sources: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield the source and the name of every picture, as a verdict holds them; raises what `pictures` raises."""
    for source, item in _found(sources):
        yield str(source), str(item.frame.key if isinstance(item, RecordedFrame) else item)


def _found(sources: Sequence[Path]) -> Iterator[tuple[Path, RecordedFrame | Path]]:
    for source in sources:
        if source.suffix == ".mcap":
            yield from ((source, item) for item in read_recording(source) if isinstance(item, RecordedFrame))
        else:
            yield from ((source, path) for path in find([source]))


def _recorded(source: Path, item: RecordedFrame) -> Picture:
    problem = Reason(item.frame.problem) or Reason.LENGTH
    return Picture(str(source), str(item.frame.key), item.pixels, Reason.NONE if item.pixels is not None else problem)


def _file(source: Path, path: Path) -> Picture:
    try:
        return Picture(str(source), str(path), read_image(path))
    except ImageError as error:
        return Picture(str(source), str(path), None, error.reason)


def judged(inspection: Inspection, bundle: str, number: int, picture: Picture) -> dict[str, Any]:
    """Return the verdict on a picture, as it is written."""
    from line_worker.vision.inspection import Inspected

    threshold = inspection.standard.threshold
    found = Inspected(picture.reason, None, threshold)
    if picture.pixels is not None:
        [found] = inspection.inspect([picture.pixels])
    return {
        "number": number,
        "source": picture.source,
        "name": picture.name,
        "outcome": verdict_of(found.reason).value,
        "reason": found.reason.name,
        "score": found.score,
        "threshold": threshold,
        "p_value": found.p_value,
        "boxes": [list(box[:4]) for box in found.boxes],
        "bundle": bundle,
    }


def recorded_outcomes(sources: Sequence[Path]) -> tuple[dict[str, Outcome], list[str]]:
    """Return what the line decided of every recorded part, by its key in words, and what recordings lack, in words."""
    outcomes, problems = dict[str, Outcome](), list[str]()
    for source in sources:
        if source.suffix == ".mcap":
            recording = read_recording(source)
            outcomes |= {str(item.key): item for item in recording if isinstance(item, Outcome)}
            problems += [f"{source}: {problem}" for problem in recording.problems]
    return outcomes, problems


def rescore(sources: Sequence[Path], bundle: Path, processes: int, done: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each picture from number `done` on, in their order, computed by so many processes.

    Raises ConfigError for sources that lead nowhere, LineWorkerError when a process dies.
    """
    check(sources)
    with contextlib.ExitStack() as stack:
        shares = [stack.enter_context(_share(sources, bundle, share, processes, done)) for share in range(processes)]
        number = done
        while (line := _line(shares[number % processes])) is not None:
            yield line
            number += 1
        for share in shares:
            _line(share)  # all have ended, and well


def check(sources: Sequence[Path]) -> None:
    """Raise ConfigError for sources that do not exist."""
    problems = [f"{source} does not exist" for source in sources if not source.exists()]
    if problems or not sources:
        raise ConfigError("rescore", problems or ["no recording, image or folder was given"])


@contextlib.contextmanager
def _share(sources: Sequence[Path], bundle: Path, share: int, of: int, done: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "line_worker.rescore.shares", str(bundle), str(share), str(of), str(done)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # numpy's libraries ask for it when they are loaded
    # a group of its own: Ctrl-C is for the process that reads, which ends this one
    whole = [*command, *map(str, sources)]
    process = subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, env=alone, process_group=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _line(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """Return the next verdict of a process, None when it has no more; raises LineWorkerError when it failed."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if text.endswith("\n"):
        found: dict[str, Any] = json.loads(text)
        return found
    if code := process.wait():
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise LineWorkerError(
            f"a process that judged pictures ended ({how}); what came before is in the output; go on with --resume"
        )
    return None


def available() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def take_one_thread() -> None:
    """Compute on one thread in this process: the others are other processes'."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def main(arguments: Sequence[str]) -> int:
    """One process: bundle, its share, of how many, from which number on, and the sources; prints verdicts."""
    bundle_path, share, of, done, *sources = arguments
    from line_worker.bundle import Bundle
    from line_worker.health import configure_logging
    from line_worker.selftest import self_tested

    configure_logging("rescore")  # to stderr: stdout is for verdicts alone
    take_one_thread()
    try:
        bundle = Bundle.load(Path(bundle_path))
        inspection = self_tested(bundle, "cpu")
        for number, picture in pictures([Path(source) for source in sources], int(share), int(of)):
            if number >= int(done):
                print(json.dumps(judged(inspection, bundle.sha, number, picture)), flush=True)
    except LineWorkerError as error:
        print(f"line-worker: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
