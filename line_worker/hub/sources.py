"""The hub's side of the frames link: which sources are there, what they announce, and what they may forget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from line_worker.hub.flood import BURST, OVER_WINDOW, is_crowded, is_full
from line_worker.hub.ledger import Ledger
from line_worker.hub.outbox import Outbox
from line_worker.hub.peers import Peers
from line_worker.hub.views import Views
from line_worker.wire import messages as m

log = structlog.get_logger()

SILENT_S = 1.0
FIRED = 4096  # triggers whose moment is remembered
DONE_AT_ONCE = 1000  # sequence numbers in one FrameDone


@dataclass(slots=True)
class SourcePeer:
    """A connected source: its address, current epoch, and what it last said; it is not well before it says so."""

    peer: bytes
    epoch: int
    seen: float
    ready: bool = False
    detail: str = "has not said yet whether it gives pictures"


class Sources:
    """The sources of one line; `present` holds the current one of each camera.

    A journal that was `begun_anew` does not know what became of an epoch that is under way: a new one is demanded.
    """

    def __init__(self, peers: Peers, ledger: Ledger, views: Views, outbox: Outbox, *, begun_anew: bool = False) -> None:
        self._peers, self._ledger, self._views, self._outbox = peers, ledger, views, outbox
        self._begun_anew = begun_anew
        self.present: dict[str, SourcePeer] = {}
        self._gone: dict[str, str] = {}  # cameras that have fallen silent without a farewell: what they said last
        self._fired: dict[tuple[str, int], float] = {}  # (camera, trigger) -> when the part came
        self._done: dict[tuple[str, int], list[int]] = {}

    def take(self, now: float, heard: float) -> None:
        """Take what sources have sent, since `heard` at the earliest; forget those that have fallen silent."""
        for peer, message in self._peers.receive():
            match message:
                case m.Frame():
                    self._announce(peer, message, now, heard)
                case m.SourceHello():
                    self._hello(peer, message, now)
                case m.SourceAlive():
                    self._alive(peer, message, now)
                case m.SourceBye():
                    self._bye(peer, message, now)
        for camera in [camera for camera, source in self.present.items() if now - source.seen > SILENT_S]:
            log.warning("source is silent", camera=camera)
            self._gone[camera] = self.present.pop(camera).detail or "is not heard any more"

    def done(self, key: m.FrameKey) -> None:
        """The part is decided and recorded: `send_done` will tell its source."""
        self._done.setdefault((key.camera, key.epoch), []).append(key.seq)

    def send_done(self) -> None:
        """Tell sources what they may forget; one that misses it asks again by announcing again."""
        for (camera, epoch), seqs in self._done.items():
            source = self.present.get(camera)
            for start in range(0, len(seqs) if source else 0, DONE_AT_ONCE):
                assert source is not None
                some = tuple(seqs[start : start + DONE_AT_ONCE])
                self._peers.channel.send(m.FrameDone(camera, epoch, some), source.peer)
        self._done.clear()

    def fire(self, camera: str, fire: m.Fire, t0: float) -> bool:
        """Tell the camera's source to take a picture of the part that came at `t0`; False when there is no source."""
        self._fired[camera, fire.number] = t0
        if len(self._fired) > FIRED:
            del self._fired[next(iter(self._fired))]
        source = self.present.get(camera)
        return source is not None and self._peers.channel.send(fire, source.peer)

    def greet(self) -> None:
        """Give every source a sign of life."""
        for source in self.present.values():
            self._peers.greet(source.peer)

    @property
    def well(self) -> dict[str, bool]:
        """Say of each camera that has come, and has not left in good order, whether it gives frames."""
        return {name: source.ready for name, source in self.present.items()} | dict.fromkeys(self._gone, False)

    def bad(self) -> tuple[str, ...]:
        """Name the cameras that give no frames."""
        return tuple(f"camera {name}: {s.detail}" for name, s in self.present.items() if not s.ready)

    def gone(self) -> tuple[str, ...]:
        """Name the cameras whose process is not heard: it hangs, perhaps while it opens its camera, or is no more."""
        return tuple(f"camera {name}: {why}" for name, why in self._gone.items())

    def frozen(self) -> tuple[str, ...]:
        """Name the cameras that give the same picture over and over."""
        return tuple(f"camera {name}: gives the same picture" for name in self.present if self._ledger.frozen(name))

    # ---- messages -----------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: m.SourceHello, now: float) -> None:
        rival = self.present.get(hello.camera)
        if rival is not None and rival.peer != peer and rival.epoch > hello.epoch:
            self._peers.refuse(peer, f"a newer source of camera {hello.camera!r} is running; stop one of them")
            return
        if self._begun_anew and hello.next_seq and (hello.camera, hello.epoch) not in self._ledger.epochs:
            self._peers.refuse(peer, "the journal of this epoch is lost; begin a new one", old_epoch=hello.epoch)
            return
        rules = self._ledger.cameras.get(hello.camera)
        if rules is None or rules.gathered or not self._ledger.open_epoch(hello.camera, hello.epoch):
            self._peers.refuse(peer, f"camera {hello.camera!r} is not in this line's configuration")
            return
        self._gone.pop(hello.camera, None)
        if rival is not None and rival.peer == peer:
            rival.epoch, rival.seen = hello.epoch, now
        else:
            self.present[hello.camera] = SourcePeer(peer, hello.epoch, now)
        self._peers.greet(peer)
        log.info("source is here", camera=hello.camera, epoch=hello.epoch, next_seq=hello.next_seq)

    def _announce(self, peer: bytes, frame: m.Frame, now: float, heard: float) -> None:
        source = self._current(peer, frame.key.camera, frame.key.epoch)
        if source is None:
            return
        source.seen = now
        if frame.place != "none" and is_full(self._ledger, frame.key):
            self._peers.charge(peer, OVER_WINDOW)
        if is_crowded(self._ledger, frame.key):
            self._peers.charge(peer, BURST)
            return
        t0 = self._fired.get((frame.key.camera, frame.trigger))
        if t0 is not None:  # a source that was stopped does not know how long ago that was
            frame = replace(frame, age_ms=max(frame.age_ms, (heard - t0) * 1000))
        if not self._ledger.announce(frame, frame.pixels, heard):
            self._jumped(peer, frame.key.camera, frame.key.epoch)
            return
        self._views.seen(frame, now, unsure_s=now - heard)
        if self._ledger.is_settled(frame.key):
            self.done(frame.key)
        if self._outbox.wants_frames:
            self._outbox.tap(m.Tap(frame, frame.pixels), now)

    def _alive(self, peer: bytes, message: m.SourceAlive, now: float) -> None:
        source = self._current(peer, message.camera, message.epoch)
        if source is None:
            return
        source.seen, source.ready, source.detail = now, message.ready, message.detail
        if not self._ledger.announced_up_to(message.camera, message.epoch, message.next_seq, now):
            self._jumped(peer, message.camera, message.epoch)

    def _bye(self, peer: bytes, message: m.SourceBye, now: float) -> None:
        if self._current(peer, message.camera, message.epoch) is None:
            return
        complete = self._ledger.announced_up_to(message.camera, message.epoch, message.next_seq, now)
        del self.present[message.camera]
        log.info(
            "source has finished",
            camera=message.camera,
            epoch=message.epoch,
            announced=message.next_seq,
            complete=complete,
        )

    def _jumped(self, peer: bytes, camera: str, epoch: int) -> None:
        log.warning("sequence has jumped", camera=camera, epoch=epoch)
        self._peers.refuse(peer, "the sequence has jumped too far", old_epoch=epoch)

    def _current(self, peer: bytes, camera: str, epoch: int) -> SourcePeer | None:
        """Return the camera's source if this is it; a stranger is asked to say hello."""
        source = self.present.get(camera)
        if source is not None and (source.peer, source.epoch) == (peer, epoch):
            return source
        self._peers.greet(peer, known=False)
        return None
