"""A GigE Vision camera beside the whole line: every frame that the camera numbered is an outcome or a counted gap.

The camera is Debian's fake one, in a process of its own, and loses packets if asked. Its own numbers are the judge:
from the first outcome to the last they must run without a break, each once.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fake_camera import INTERFACE, FakeCamera
from bench.line import quantiles
from line_worker.config import Config, parse
from line_worker.rehearsal import Rehearsal
from line_worker.source.numbered import LAST_BLOCK
from line_worker.verdicts import Reason
from line_worker.wire.messages import Outcome

START_S = 60.0  # until the first frame must be there


@dataclass(frozen=True, slots=True)
class Shots:
    """What is asked of the camera; `lost`: of a thousand packets; `packet_size`: bytes, 0: the largest that goes."""

    rate: float = 50.0
    seconds: float = 60.0
    width: int = 1024
    height: int = 1024
    lost: int = 0
    packet_size: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """Outcomes by verdict and by reason; `breaks`: places where the camera's numbers do not follow each other;
    `unaccounted`: frames that were announced and have no outcome; times from frame to outcome in ms.
    """

    shots: Shots
    outcomes: int
    counts: dict[str, int]
    reasons: dict[str, int]
    breaks: int
    unaccounted: int
    seconds: float
    elapsed_ms: dict[str, float]

    @property
    def whole(self) -> bool:
        """Whether every frame is accounted for, and some had a picture."""
        return not self.breaks and not self.unaccounted and self.counts.get("PASS", 0) > 0


def measure(shots: Shots) -> Counted:
    """Run a line with the fake camera.

    Raises:
        TimeoutError: the fake camera does not answer. SourceError: the line did not become ready.
    """
    with FakeCamera(shots.lost), tempfile.TemporaryDirectory(prefix="lw-camera-") as folder:
        rehearsal = Rehearsal(_config(shots, Path(folder)), Path(folder) / "line.log")
        watcher = rehearsal.watcher

        def look() -> None:
            outcomes = watcher.outcomes
            if outcomes and time.time() - outcomes[0].wall >= shots.seconds:
                rehearsal.end()

        rehearsal.run(look, seconds=START_S + shots.seconds)
        return count(shots, watcher.outcomes, watcher.elapsed_ms)


def count(shots: Shots, outcomes: Sequence[Outcome], elapsed_ms: list[float]) -> Counted:
    """Return what the outcomes of one start of one camera say."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.key.seq)
    numbers = [outcome.trigger for outcome in ordered]
    walls = [outcome.wall for outcome in ordered]
    return Counted(
        shots=shots,
        outcomes=len(ordered),
        counts=dict(Counter(outcome.verdict for outcome in ordered)),
        reasons=dict(Counter(Reason(outcome.reason).name for outcome in ordered if outcome.reason)),
        breaks=sum(second != first % LAST_BLOCK + 1 for first, second in itertools.pairwise(numbers)),
        unaccounted=max((outcome.key.seq for outcome in ordered), default=-1) + 1 - len(ordered),
        seconds=max(walls, default=0.0) - min(walls, default=0.0),
        elapsed_ms=quantiles(elapsed_ms),
    )


def _config(shots: Shots, folder: Path) -> Config:
    nodes = {"Width": shots.width, "Height": shots.height, "PixelFormat": "Mono8", "AcquisitionFrameRate": shots.rate}
    source = {"kind": "gige", "interface": INTERFACE, "packet_size": shots.packet_size, "nodes": nodes}
    frame_mb = max(1.0, shots.width * shots.height / 1e6 * 1.05)
    camera = {"name": "gige", "deadline_ms": 1000, "window": 64, "max_frame_mb": frame_mb, "frozen": "allow"}
    return parse(
        {
            "line": {"name": "bench", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{**camera, "source": source}],
            "workers": {"bundle": "stub", "count": 2},
        }
    )
