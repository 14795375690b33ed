"""The hub and its sources, with peers that follow a script: what it asks, answers and refuses."""

from __future__ import annotations

import pytest

from line_worker.hub import flood
from line_worker.hub.ledger import MAX_GAP
from line_worker.hub.sources import SILENT_S
from line_worker.verdicts import Reason, StationState
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES
from scripted_hub import EPOCH, Rig, answer, done_by, frame


def test_a_source_that_the_hub_has_forgotten_is_asked_to_say_hello(rig: Rig) -> None:
    source, worker = rig.running()
    source.pulse = None
    rig.until_state(StationState.READY)  # it has fallen silent
    source.heard.clear()
    source.say(frame(0))
    assert source.hears(m.HubHello)[0].known is False
    source.say(m.SourceHello("cam", EPOCH, 1), frame(0, age_ms=50.0), m.SourceAlive("cam", EPOCH, 1, True, ""))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}


def test_a_camera_whose_source_is_silent_is_not_forgotten(rig: Rig) -> None:
    """It may hang while it opens its camera, which others have taken."""
    source, _ = rig.running()
    sources = rig.hub.sources
    source.pulse = None
    source.say(m.SourceAlive("cam", EPOCH, 0, False, "LW7: is taken"))
    rig.until_state(StationState.READY)
    assert (sources.well, sources.gone()) == ({"cam": False}, ("camera cam: LW7: is taken",))
    back = rig.source(EPOCH + 1)
    rig.until(lambda: sources.well == {"cam": True} and not sources.gone())
    back.pulse = None
    back.say(m.SourceBye("cam", EPOCH + 1, 0))
    rig.until(lambda: not sources.well)
    rig.turns(SILENT_S + 0.1)
    assert not sources.gone(), "it has left in good order"


def test_a_restarted_source_is_not_told_to_forget_what_the_old_one_had(rig: Rig) -> None:
    """Frames of both epochs have the same sequence numbers; an acknowledgement names its epoch."""
    source, worker = rig.running()
    source.say(frame(0), frame(1))
    leases = worker.hears(m.Lease, 2)
    rig.lose(source)
    new = rig.source(EPOCH + 1)
    new.say(frame(0, EPOCH + 1), frame(1, EPOCH + 1))
    worker.hears(m.Lease, 4)
    worker.say(*(answer(lease) for lease in leases))
    rig.until(lambda: len(done_by(new)) == 2)
    assert done_by(new) == {(EPOCH, 0), (EPOCH, 1)}
    worker.say(*(answer(lease) for lease in worker.got(m.Lease)[2:]))
    rig.until(lambda: done_by(new) == {(epoch, seq) for epoch in (EPOCH, EPOCH + 1) for seq in (0, 1)})


def test_an_older_source_of_the_same_camera_is_refused_while_the_newer_one_lives(rig: Rig) -> None:
    newer, _ = rig.running()
    older = rig.source(EPOCH - 1)
    assert "newer source" in older.hears(m.Refused)[0].why
    newer.say(frame(0, deadline_ms=200.0))
    assert newer.hears(m.FrameDone), "it is still heard"
    newer.pulse = older.pulse = None
    rig.turns(SILENT_S + 0.1)
    rig.until_state(StationState.READY)
    older.heard.clear()
    older.say(m.SourceHello("cam", EPOCH - 1, 0))
    older.hears(m.HubHello)
    assert not older.got(m.Refused), "the clock was set back, and the newer one is gone"


def test_an_unknown_camera_is_refused(rig: Rig) -> None:
    stranger = rig.peer(FRAMES, "stranger")
    stranger.say(m.SourceHello("moon", 1, 0))
    assert "camera 'moon' is not in this line's configuration" in stranger.hears(m.Refused)[0].why


@pytest.mark.parametrize(
    "jump",
    [frame(MAX_GAP + 5), m.SourceAlive("cam", EPOCH, 2**62, True, ""), m.SourceAlive("cam", EPOCH, 5000, True, "")],
)
def test_a_jump_too_far_ends_the_epoch_and_is_not_booked(rig: Rig, jump: m.Message) -> None:
    source, _ = rig.running()
    source.say(frame(0, deadline_ms=200.0), jump)
    [refused] = source.hears(m.Refused)
    assert refused.old_epoch == EPOCH
    rig.outcomes(1)
    rig.beat()
    rig.restart()
    assert [(e.epoch, e.next_seq) for e in rig.hub.journal.open_epochs()] == [(EPOCH, 1)]


def test_gaps_at_the_end_are_booked_when_the_source_says_goodbye(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    source.hears(m.FrameDone)  # a source says goodbye when what it has announced is decided
    source.say(m.SourceBye("cam", EPOCH, 3))
    assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.GAP, 2: Reason.GAP}
    rig.until_state(StationState.READY)


def test_a_frame_sent_again_after_its_outcome_is_acknowledged_again(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    source.hears(m.FrameDone)
    source.say(frame(0))
    assert source.hears(m.FrameDone, 2) == [m.FrameDone("cam", EPOCH, (0,))] * 2
    rig.beat()
    assert len(rig.sink.got(m.Outcome)) == 1


def test_a_malformed_announcement_becomes_a_gap(rig: Rig) -> None:
    source, worker = rig.running()
    source.say_raw(b"\x01\x02", b"\xc1", b"")
    source.say(frame(1))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(2) == {0: Reason.GAP, 1: Reason.NONE}


def test_a_malformed_announcement_that_names_its_part_decides_it(rig: Rig) -> None:
    source, _ = rig.running()
    head, body, pixels = m.to_parts(frame(0))
    source.say_raw(bytes((head[0] + 1, head[1])), body, pixels)
    source.say_raw(head, body, pixels, b"one part more")
    assert rig.outcomes(1) == {0: Reason.HEADER}
    rig.until(lambda: rig.hub.turned_away()["malformed"] == 2)


def test_three_malformed_messages_cut_the_peer_and_no_other(rig: Rig) -> None:
    source, worker = rig.running()
    for _ in range(3):
        worker.say_raw(b"\x01")
    assert "3 malformed messages" in worker.hears(m.Refused)[0].why
    worker.heard.clear()
    worker.say(m.Progress(77, 1))
    source.say(m.SourceAlive("cam", EPOCH + 1, 0, True, ""))
    source.hears(m.HubHello)
    rig.turns(0.1)
    assert not [hello for hello in worker.got(m.HubHello) if not hello.known], "nobody asks who it is"
    assert rig.hub.turned_away() == {"malformed": 3, "cut": 1}


def test_a_flood_of_headers_is_dropped_and_its_peer_cut(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "RATE", 10.0)
    monkeypatch.setattr(flood, "BURST", 50.0)
    monkeypatch.setattr(flood, "EXCESS", 20)
    source, _ = rig.running()
    source.pulse = None
    for seq in range(100):
        source.say(frame(seq, place="none"))
        if seq % 10 == 0:
            rig.turn()
    assert "it floods" in source.hears(m.Refused)[0].why
    assert rig.hub.turned_away()["cut"] == 1
    rig.turns(0.1)
    booked = sum(epoch.next_seq for epoch in rig.hub.ledger.epochs.values())
    assert 40 <= booked < 80, "what was taken is booked, what came on top is not"


def test_more_unreleased_parts_than_a_source_can_have_are_not_booked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "MAX_UNRELEASED", 10)
    source, _ = rig.running(credits=0)
    source.say(frame(0), *(frame(seq, place="none") for seq in range(1, 100)))
    rig.until(lambda: rig.hub.ledger.open_parts == 10)
    rig.turns(0.1)
    assert rig.hub.ledger.open_parts == 10
    assert rig.hub.turned_away()["flood"] > 50


def test_a_frozen_camera_is_a_fault_until_it_gives_another_picture(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0, checksum=5))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}
    source.say(*(frame(seq, checksum=5) for seq in range(1, 4)))
    rig.until_state(StationState.FAULT)
    assert rig.hub.station.cause == "camera cam: gives the same picture"
    source.say(frame(4, checksum=6))
    rig.until_state(StationState.RUNNING)
    worker.say(answer(worker.hears(m.Lease, 2)[1]))
    frozen = Reason.FROZEN
    assert rig.outcomes(5) == dict(enumerate((Reason.NONE, frozen, frozen, frozen, Reason.NONE)))
