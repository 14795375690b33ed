"""How much memory the line's frames, pictures and messages can take at most, all windows and queues full. Pure.

What Python, the libraries and the model need comes on top (`bench soak` shows it by process). Peers are taken to obey
their windows; a queue's mark bounds what one that does not can cause, message by message.
"""

from __future__ import annotations

from typing import NamedTuple

from line_worker.config import Camera, Config
from line_worker.wire.http import CONNECTIONS
from line_worker.wire.limits import (
    AHEAD_FRAMES,
    CREDIT_BATCHES,
    CROPS_WAITING,
    LIVE_BYTES,
    LIVE_INLINE,
    LIVE_WAITING,
    RECORDER_BYTES,
    SHADOW_FRAMES,
)
from line_worker.wire.links import CROPS, FRAMES, OUTCOMES, SLACK_BYTES, WORK


class MemoryBound(NamedTuple):
    """Bytes by where they are: shared memory, and the processes of each role together."""

    rings: int
    hub: int
    sources: int
    workers: int
    sinks: int
    messages: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def as_mb(self) -> dict[str, float]:
        """Return megabytes by where they are, for people."""
        return {name: round(value / 1e6, 1) for name, value in self._asdict().items()}


def memory_bound(config: Config) -> MemoryBound:
    """Return the bound for the configured line."""
    return MemoryBound(
        rings=sum(_bytes(c) * c.ring_slots for c in config.cameras if c.transport == "ring"),
        hub=_hub(config),
        sources=sum(_bytes(c) * (AHEAD_FRAMES + (c.window + 2) * _inline(c)) for c in config.cameras),
        workers=_workers(config) * _worker(config),
        sinks=_sinks(config),
        messages=_messages(config),
    )


def _bytes(camera: Camera) -> int:
    return int(camera.max_frame_mb * 1e6)


def _inline(camera: Camera) -> bool:
    return camera.transport == "inline"


def _workers(config: Config) -> int:
    """Return how many workers there can be: one more while one that has grown is being replaced."""
    return config.workers.count + (config.workers.growth_mb > 0 or config.workers.growth_descriptors > 0)


def _credits(config: Config) -> int:
    """Return the frames that all workers may hold."""
    return _workers(config) * CREDIT_BATCHES * config.workers.batch


def _hub(config: Config) -> int:
    """Inline frames: announced and arriving, on their way to workers, bait, and copies for recorders and shadows."""
    inline = [c for c in config.cameras if _inline(c)]
    largest = max(map(_bytes, inline), default=0)
    tapped = sum(sink.kind in ("record", "shadow") for sink in config.sinks)
    pages = sum(sink.kind == "live" for sink in config.sinks) * sum(map(_bytes, inline))
    arriving = max(c.window for c in config.cameras) + 2  # the mark of the frames link
    windows = sum((c.window + 2 + arriving) * _bytes(c) for c in inline)
    canaries = sum(2 * _bytes(c) for c in inline if c.canary_every_s)  # bait, and what is on its way
    return windows + canaries + pages + (_credits(config) + tapped * OUTCOMES.high_water) * largest


def _worker(config: Config) -> int:
    """Copies of leased frames, a canary, anomalies that wait to be drawn and, on their way, their pictures."""
    canary = 2 * any(camera.canary_every_s for camera in config.cameras)  # before and after its defect is painted
    held = (CREDIT_BATCHES * config.workers.batch + CROPS_WAITING + 1 + canary) * config.frame_bytes
    return held + CROPS.high_water * CROPS.frames * config.frame_bytes


def _sinks(config: Config) -> int:
    """Pictures that wait for the store; frames that wait to be copied, then for a recorder's disk or a shadow.

    A shadow draws one picture at a time, as large as a crop may be; a page draws one, and sends one to each browser.
    """
    store = CROPS.high_water * CROPS.frames * config.frame_bytes
    taps = OUTCOMES.high_water * max((_bytes(c) for c in config.cameras if _inline(c)), default=0)
    recorder = RECORDER_BYTES + config.frame_bytes + taps
    shadow = (SHADOW_FRAMES + 1 + CROPS.frames) * config.frame_bytes + taps
    inline = sum(map(_inline, config.cameras))
    sampled = inline + LIVE_INLINE if inline else 0  # on their way to a page, and there
    live = LIVE_BYTES + (LIVE_WAITING + 2 + CONNECTIONS + sampled) * config.frame_bytes
    held = {"store": store, "record": recorder, "shadow": shadow, "live": live}
    return sum(held.get(sink.kind, 0) for sink in config.sinks)


def _messages(config: Config) -> int:
    """Bodies in the queues of both ends of every connection, pixels apart."""
    peers = ((FRAMES, len(config.cameras)), (WORK, _workers(config)), (OUTCOMES, len(config.sinks)))
    return sum(2 * 2 * count * link.high_water * SLACK_BYTES for link, count in peers)
