"""The memory bound counts every place where a frame, a picture or a message may wait."""

from __future__ import annotations

from typing import Any

import pytest

from line_worker.config import Config, parse
from line_worker.hub.bounds import MemoryBound, memory_bound
from line_worker.source.camera import QUEUE_FRAMES
from line_worker.source.folder import FolderFrames
from line_worker.source.replay import ReplayFrames
from line_worker.source.synthetic import SyntheticFrames
from line_worker.source.video import VideoFrames
from line_worker.wire.http import CONNECTIONS
from line_worker.wire.limits import AHEAD_FRAMES, LIVE_BYTES, LIVE_INLINE, LIVE_WAITING, RECORDER_BYTES
from line_worker.wire.links import CROPS, FRAMES, OUTCOMES, SLACK_BYTES, WORK

FRAME = 1_000_000


def bound(*sinks: dict[str, Any], transport: str = "ring", cameras: int = 1, window: int = 4) -> MemoryBound:
    return memory_bound(line(*sinks, transport=transport, cameras=cameras, window=window))


def line(*sinks: dict[str, Any], transport: str, cameras: int, window: int) -> Config:
    one = {"deadline_ms": 100, "window": window, "max_frame_mb": 1, "transport": transport}
    return parse(
        {
            "line": {"name": "l", "runtime": "/r", "data": "/d"},
            "cameras": [one | {"name": f"c{n}", "source": {"kind": "synthetic"}} for n in range(cameras)],
            "workers": {"bundle": "stub", "count": 2, "batch": 3, "growth_mb": 0, "growth_descriptors": 0},
            "sinks": list(sinks),
        }
    )


def test_frames_in_shared_memory() -> None:
    found = bound()
    assert (found.rings, found.hub, found.sinks) == (10 * FRAME, 0, 0)
    assert found.sources == AHEAD_FRAMES * FRAME
    assert found.workers == 2 * (2 * 3 + 8 + 1 + CROPS.high_water * CROPS.frames) * FRAME
    assert found.messages == 4 * SLACK_BYTES * (FRAMES.high_water + 2 * WORK.high_water)
    assert found.total == sum(found)
    assert found.as_mb()["rings"] == 10


def test_while_a_worker_is_replaced_there_is_one_more() -> None:
    config = line(transport="inline", cameras=1, window=4)
    three = config.model_copy(update={"workers": config.workers.model_copy(update={"count": 3})})
    grows = config.model_copy(update={"workers": config.workers.model_copy(update={"growth_mb": 100.0})})
    assert memory_bound(grows) == memory_bound(three) != memory_bound(config)


def test_frames_inside_messages() -> None:
    found = bound(transport="inline")
    assert found.rings == 0
    assert found.hub == (2 * (4 + 2) + 2 * 2 * 3) * FRAME, "announced, arriving, and on their way to workers"
    assert found.sources == (AHEAD_FRAMES + 4 + 2) * FRAME


@pytest.mark.parametrize(("transport", "bait"), [("ring", 0), ("inline", 2)])
def test_canaries_count(transport: str, bait: int) -> None:
    config = line(transport=transport, cameras=2, window=4)
    first = config.cameras[0].model_copy(update={"canary_every_s": 60.0})
    before = memory_bound(config)
    after = memory_bound(config.model_copy(update={"cameras": (first, config.cameras[1])}))
    assert after.hub - before.hub == bait * FRAME
    assert after.workers - before.workers == 2 * 2 * FRAME, "each worker's picture, before and after the painting"


RECORD = {"kind": "record", "path": "/x.mcap"}


@pytest.mark.parametrize(
    ("sinks", "transport", "hub", "waiting"),
    [
        ([{"kind": "store"}], "ring", 0, CROPS.high_water * CROPS.frames * FRAME),
        ([RECORD], "ring", 0, RECORDER_BYTES + FRAME),
        ([RECORD], "inline", OUTCOMES.high_water * FRAME, RECORDER_BYTES + (1 + OUTCOMES.high_water) * FRAME),
        ([{"kind": "log"}], "inline", 0, 0),
        ([{"kind": "live"}], "ring", 0, LIVE_BYTES + (LIVE_WAITING + 2 + CONNECTIONS) * FRAME),
        ([{"kind": "live"}], "inline", FRAME, LIVE_BYTES + (LIVE_WAITING + LIVE_INLINE + 3 + CONNECTIONS) * FRAME),
    ],
)
def test_what_sinks_make_wait(sinks: list[dict[str, Any]], transport: str, hub: int, waiting: int) -> None:
    found, without = bound(*sinks, transport=transport), bound(transport=transport)
    assert (found.hub - without.hub, found.sinks) == (hub, waiting)
    assert found.messages - without.messages == 4 * SLACK_BYTES * OUTCOMES.high_water


@pytest.mark.parametrize("transport", ["ring", "inline"])
def test_it_grows_with_cameras_and_windows(transport: str) -> None:
    assert bound(transport=transport, cameras=2).total > bound(transport=transport).total
    assert bound(transport=transport, window=8).total > bound(transport=transport).total


def test_no_source_reads_further_ahead_than_is_counted() -> None:
    for source in (FolderFrames, VideoFrames, SyntheticFrames, ReplayFrames):
        assert source.ahead + 2 <= AHEAD_FRAMES, "those that wait, the one being made, the one being announced"
    assert QUEUE_FRAMES + 2 <= AHEAD_FRAMES
