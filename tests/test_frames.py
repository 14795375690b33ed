"""The ring: what goes in comes out, and every way in which it can go wrong has its reason."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.errors import FrameError, SourceError
from line_worker.verdicts import Reason
from line_worker.wire.frames import HEAD, SHM, FrameReader, FrameRing, Slot, checksum
from line_worker.wire.messages import Frame, FrameKey

NAME = f"lw-test-{os.getpid()}"
Place = Callable[[Any], Frame]


@pytest.fixture
def ring() -> Iterator[FrameRing]:
    ring = FrameRing(NAME, 3, 20_000)
    yield ring
    ring.close()
    assert not list(SHM.glob(f"{NAME}*")), "nothing stays in shared memory"


@pytest.fixture
def reader() -> Iterator[FrameReader]:
    reader = FrameReader()
    yield reader
    reader.close()


def header(pixels: Any, **more: Any) -> Frame:
    fields = {
        "key": FrameKey("l", "c", 1, 2),
        "age_ms": 0.0,
        "deadline_ms": 1.0,
        "shape": pixels.shape,
        "dtype": str(pixels.dtype),
        "colour": "gray" if pixels.ndim == 2 else "bgr",
        "checksum": checksum(pixels),
        "place": "inline",
    }
    return Frame(**fields | more)


@pytest.fixture
def place(ring: FrameRing) -> Place:
    def put(pixels: Any) -> Frame:
        slot = ring.put(pixels)
        assert slot is not None
        return header(pixels, place="ring", ring=ring.ring, offset=slot.offset, generation=slot.generation)

    return put


def picture(shape: tuple[int, ...] = (40, 50), dtype: str = "uint8", seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2**8 if dtype == "uint8" else 2**16, shape, dtype)


def reason(reader: FrameReader, frame: Frame, inline: bytes = b"") -> Reason:
    with pytest.raises(FrameError) as error:
        reader.read(frame, inline)
    return error.value.reason


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (1, 1)])
def test_pictures_come_back_as_private_copies(
    place: Place, reader: FrameReader, ring: FrameRing, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = picture(shape, dtype)
    read = reader.read(place(pixels), b"")
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)
    for seed in range(1, 3):
        ring.put(picture(shape, dtype, seed))
    np.testing.assert_array_equal(read, pixels)
    read[0, 0] = 0  # a copy may be changed


def test_views_are_stored_in_c_order(place: Place, reader: FrameReader) -> None:
    pixels = picture((60, 80))[::2, ::-1]
    np.testing.assert_array_equal(reader.read(place(pixels), b""), pixels)


@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.sampled_from(["uint8", "uint16"]))
def test_inline_pictures_come_back(height: int, width: int, colour: bool, dtype: str) -> None:
    pixels = picture((height, width, 3) if colour else (height, width), dtype)
    read = FrameReader().read(header(pixels), pixels.tobytes())
    np.testing.assert_array_equal(read, pixels)


def test_a_full_ring_takes_nothing_until_a_slot_is_free(ring: FrameRing) -> None:
    slots = [ring.put(picture(seed=seed)) for seed in range(3)]
    assert None not in slots
    assert ring.put(picture()) is None
    first = slots[0]
    assert first is not None
    ring.free(first)
    ring.free(first)  # twice is once
    again = ring.put(picture())
    assert again is not None
    assert (again.offset, again.generation) == (first.offset, first.generation + 2)
    ring.free(first)  # of an earlier generation: the slot is in use
    assert ring.put(picture()) is None


def test_a_picture_made_in_the_ring_is_not_copied(ring: FrameRing, reader: FrameReader) -> None:
    pixels = picture()
    room = ring.reserve(pixels.shape, pixels.dtype)
    assert room is not None
    room[:] = pixels
    slot = ring.put(room)
    assert slot is not None
    room[0, 0] += 1  # only to see that it is the same memory
    placed = header(room, place="ring", ring=ring.ring, offset=slot.offset, generation=slot.generation)
    np.testing.assert_array_equal(reader.read(placed, b""), room)


def test_room_that_was_not_used_costs_nothing(ring: FrameRing, place: Place, reader: FrameReader) -> None:
    first, second = picture(seed=1), picture(seed=2)
    frame = place(first)
    for _ in range(5):
        assert ring.reserve(second.shape, second.dtype) is not None
    again = place(second)
    assert again.offset != frame.offset
    np.testing.assert_array_equal(reader.read(frame, b""), first)
    np.testing.assert_array_equal(reader.read(again, b""), second)


def test_what_a_reader_is_late_for_is_noticed_as_soon_as_its_slot_is_reserved(
    ring: FrameRing, place: Place, reader: FrameReader
) -> None:
    frame = place(picture())
    ring.free(Slot(frame.offset, frame.generation))
    for _ in range(2):
        place(picture())
    assert ring.reserve((4, 4), np.uint8) is not None
    with pytest.raises(FrameError):
        reader.read(frame, b"")


def test_there_is_no_room_in_a_full_ring_or_for_what_is_too_large(ring: FrameRing) -> None:
    assert ring.reserve((200, 200), np.uint8) is None
    assert ring.reserve((0, 5), np.uint8) is None
    for seed in range(3):
        ring.put(picture(seed=seed))
    assert ring.reserve((4, 4), np.uint8) is None


def test_the_slot_that_was_free_longest_is_used_first(ring: FrameRing) -> None:
    offsets = [slot.offset for _ in range(3) if (slot := ring.put(picture()))]
    assert len(set(offsets)) == 3


def test_a_picture_larger_than_a_slot_is_refused(ring: FrameRing) -> None:
    with pytest.raises(FrameError) as error:
        ring.put(picture((200, 200)))
    assert error.value.reason is Reason.TOO_BIG
    assert ring.put(picture()) is not None, "the slot is still there"


def test_an_overwritten_slot_is_noticed(place: Place, reader: FrameReader, ring: FrameRing) -> None:
    frame = place(picture())
    slot = dataclasses.replace(ring.put(picture(seed=9)), offset=frame.offset, generation=frame.generation)  # type: ignore[type-var]
    ring.free(slot)
    for seed in range(3):
        ring.put(picture(seed=seed))
    assert reason(reader, frame) is Reason.CRC


def test_every_flipped_bit_is_noticed(place: Place, reader: FrameReader, ring: FrameRing) -> None:
    pixels = picture()
    frame = place(pixels)
    for at in (0, 999, pixels.nbytes - 1):
        with open(SHM / ring.ring, "r+b") as file:
            file.seek(frame.offset + HEAD + at)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
            file.flush()
            assert reason(reader, frame) is Reason.CRC
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte]))
    np.testing.assert_array_equal(reader.read(frame, b""), pixels)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"offset": 2**62}, Reason.LENGTH),
        ({"offset": -8}, Reason.LENGTH),
        ({"shape": (40, 49)}, Reason.LENGTH),
        ({"shape": (4000, 5000)}, Reason.LENGTH),
        ({"shape": (0, 50)}, Reason.SHAPE),
        ({"dtype": "float32"}, Reason.SHAPE),
        ({"colour": "bgr"}, Reason.SHAPE),
        ({"checksum": 1}, Reason.CRC),
        ({"generation": 7}, Reason.CRC),
        ({"ring": "gone.ring"}, Reason.CRC),
        ({"ring": "../etc/passwd"}, Reason.HEADER),
        ({"ring": "a\0.ring"}, Reason.CRC),
        ({"place": "inline"}, Reason.LENGTH),
        ({"place": "elsewhere"}, Reason.LENGTH),
    ],
)
def test_a_header_that_lies_gives_a_reason(
    place: Place, reader: FrameReader, changes: dict[str, Any], expected: Reason
) -> None:
    frame = place(picture())
    assert reason(reader, dataclasses.replace(frame, **changes)) is expected
    assert reader.read(frame, b"").shape == (40, 50), "the next frame is read as if nothing had happened"


def test_a_ring_that_is_gone_is_noticed_by_new_readers(ring: FrameRing, place: Place) -> None:
    frame = place(picture())
    early, late = FrameReader(), FrameReader()
    early.read(frame, b"")
    ring.close()
    assert early.read(frame, b"").shape == (40, 50), "who has mapped it keeps it"
    assert reason(late, frame) is Reason.CRC
    early.close()


def test_readers_let_go_of_rings_that_are_gone() -> None:
    reader = FrameReader()
    for _ in range(5):
        ring = FrameRing(NAME, 1, 4096)
        slot = ring.put(picture())
        assert slot is not None
        reader.read(header(picture(), place="ring", ring=ring.ring, offset=0, generation=slot.generation), b"")
        ring.close()
    with open("/proc/self/maps") as maps:
        assert sum(NAME in line for line in maps) <= 1
    reader.close()


def test_rings_of_dead_sources_are_swept_and_those_of_living_ones_stay() -> None:
    make = f"from line_worker.wire.frames import FrameRing; import os; FrameRing({NAME!r}, 1, 100); os._exit(0)"
    subprocess.run([sys.executable, "-c", make], check=True)
    (dead,) = SHM.glob(f"{NAME}*")
    similar = FrameRing(f"{NAME}.1", 1, 100)
    ring = FrameRing(NAME, 1, 100)
    second = FrameRing(NAME, 1, 100)
    assert not dead.exists()
    assert all((SHM / alive.ring).exists() for alive in (similar, ring, second))
    for alive in (similar, ring, second):
        alive.close()
        alive.close()


def test_no_room_is_an_error_that_says_what_to_do() -> None:
    free = os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize
    with pytest.raises(SourceError, match=r"no room for \d+ MB.*window or max_frame_mb smaller"):
        FrameRing(NAME, 2, free)
    assert not list(SHM.glob(f"{NAME}*"))
