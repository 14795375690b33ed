"""How much may wait where, beside the links' own marks: what the roles obey and the memory bound is made of."""

from __future__ import annotations

AHEAD_FRAMES = 10  # that any source has read, drawn or decoded before they are asked for
CREDIT_BATCHES = 2  # batches that a worker holds: one computed, one waiting
CROPS_WAITING = 8  # pictures of anomalies that a worker has not drawn yet
RECORDER_BYTES = 256_000_000  # of pictures that wait for a recorder's disk
SHADOW_FRAMES = 16  # pictures that wait for a shadow, or for the line to decide them first
LIVE_BYTES = 64_000_000  # of parts that the page has shown lately and that somebody may want to keep
LIVE_INLINE = 8  # pictures out of messages that it holds until the line has decided their parts
LIVE_WAITING = 8  # rejects that it has not written yet
