"""A sink's process.

In come outcomes, the station's state and, where asked for, frames and crops; out goes whatever the sink drives. A
durable sink that cannot write keeps what it has, tries again with backoff and acknowledges nothing, so the hub still
owes it; a real-time sink takes each outcome once, with the time that is left of its deadline, and what it could not
take by then is dropped. When the hub restarts, the sink says hello again. SIGTERM: what has arrived is delivered, the
sink is closed in bounded time, the process exits 0.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable

import structlog

from line_worker.config import Config
from line_worker.config import Sink as SinkConfig
from line_worker.errors import DecodeError, SinkError
from line_worker.health import Notifier, StopFlag, only_one
from line_worker.joining import check_sink, open_wire
from line_worker.lapse import Lapse
from line_worker.priority import take_priority
from line_worker.sink import Sink, make_sink
from line_worker.sink.asks import Asks
from line_worker.wire import messages as m
from line_worker.wire.links import CROPS, OUTCOMES
from line_worker.wire.sockets import Wire

log = structlog.get_logger()

POLL_S = 0.01
UNSEEN_S = 0.05
STATE_S = 0.1
GRACE_MS = 100.0  # a reject is offered at its deadline, not before it
BACKOFF_S = (0.2, 5.0)


class Runner:
    """Feeds one sink; `turn` is one turn of the loop."""

    def __init__(self, name: str, sink: Sink, wire: Wire) -> None:
        self.name, self.sink = name, sink
        self._channel = wire.connect(OUTCOMES, f"sink-{name}")
        self._crops = wire.bind(CROPS) if sink.wants_crops else None
        self._asks = Asks(name)
        self._owed: deque[tuple[m.Outcome, float]] = deque()  # and when it arrived
        self._instance = 0
        self._acked = 0
        self._open, self._trouble = False, ""
        self._retry_at, self._backoff_s, self._state_at = 0.0, BACKOFF_S[0], 0.0
        self.delivered = self.expired = 0
        self._turned, self._lapse = time.monotonic(), Lapse()

    def turn(self, now: float) -> None:
        """Open if need be, take what has arrived, deliver, acknowledge."""
        if not self._open and now >= self._retry_at:
            self._try(self._open_sink, now)
        # a process that was stopped has not looked: what it finds may have been here since it looked last
        arrived = self._lapse.date(self._turned if now - self._turned > UNSEEN_S else now, now)
        self._turned = now
        for received in self._channel.receive():
            self._take(received.message, now, arrived)
        if self._crops is not None and self._open:
            for received in self._crops.receive():
                if isinstance(received.message, m.Crop):
                    self.sink.crop(received.message)
        if self._open and now >= self._retry_at:
            self._try(self._deliver, now)
        if self._open:
            self.sink.poll(now)
            self._ask(now)
        if not self.sink.durable:
            self._drop_expired(now)
        if now - self._state_at >= STATE_S:
            self._say_state(now)

    def _ask(self, now: float) -> None:
        for ask in self.sink.asks():
            message = self._asks.add(ask, now)
            if self._instance:
                self._channel.send(message)

    def _open_sink(self, now: float) -> None:
        self.sink.open()
        self._open = True

    def _deliver(self, now: float) -> None:
        taken: list[tuple[m.Outcome, float]] = []
        try:
            while self._owed:
                self.sink.deliver(self._aged(*self._owed[0], now), now)
                taken.append(self._owed.popleft())
        finally:
            if taken:
                self._settle(taken)

    def _settle(self, taken: list[tuple[m.Outcome, float]]) -> None:
        """Acknowledge what was taken, or owe it again."""
        try:
            self.sink.settle()
        except SinkError:
            self._owed.extendleft(reversed(taken))
            raise
        self.delivered += len(taken)
        row = max(outcome.row for outcome, _ in taken)
        if row > self._acked and self.sink.durable:
            self._acked = row
            self._channel.send(m.SinkAck(self.name, row))

    def _aged(self, outcome: m.Outcome, arrived: float, now: float) -> m.Outcome:
        """Return the outcome with what is left of its deadline now; a durable sink has no deadline."""
        if self.sink.durable or now == arrived:
            return outcome
        return dataclasses.replace(outcome, left_ms=outcome.left_ms - (now - arrived) * 1000)

    def _drop_expired(self, now: float) -> None:
        """Forget what a real-time sink could not take within its deadline: it must never be replayed."""
        while self._owed and (now - self._owed[0][1]) * 1000 > max(self._owed[0][0].left_ms, GRACE_MS):
            self._owed.popleft()
            self.expired += 1

    def _try(self, step: Callable[[float], None], now: float) -> None:
        try:
            step(now)
        except SinkError as error:
            if str(error) != self._trouble:
                log.warning("sink failed", error=str(error), again_in_s=self._backoff_s)
            self._trouble, self._retry_at = str(error), now + self._backoff_s
            self._backoff_s = min(self._backoff_s * 2, BACKOFF_S[1])
        else:
            self._trouble, self._backoff_s = "", BACKOFF_S[0]

    def _take(self, message: m.Message | DecodeError, now: float, arrived: float) -> None:
        match message:
            case m.Outcome():
                self._owed.append((message, arrived))
            case m.HubState():
                self._meet(message.instance, now)
                self._asks.heard(now)
                if self._open:
                    self.sink.beat(message, now)
            case m.HubHello() if not message.known:
                self._instance = 0
                self._meet(message.instance, now)
            case DecodeError():
                log.error("a message that cannot be used", link="outcomes", message=str(message))
            case m.Tap() if self._open:
                self.sink.tap(message.frame, message.pixels)

    def _meet(self, instance: int, now: float) -> None:
        """Say hello to a hub that does not know us: it sends again what we have not acknowledged, and so do we."""
        if instance == self._instance:
            return
        self._instance, self._acked = instance, 0
        self._owed.clear()
        self._channel.send(m.SinkHello(self.name, self.sink.durable, self.sink.wants_frames))
        for ask in self._asks.again(now):
            self._channel.send(ask)

    def _say_state(self, now: float) -> None:
        self._state_at = now
        ok, why = self.sink.reachable() if self._open else (False, self._trouble or "not opened yet")
        self._channel.send(m.SinkState(self.name, ok and not self._trouble, (self._trouble or why)[:1000]))


def run(config: Config, sink_config: SinkConfig) -> int:
    """Run one sink until SIGTERM; returns the exit code."""
    stop, notifier = StopFlag(), Notifier()
    with only_one(config.line.runtime, f"sink-{sink_config.name}"):
        check_sink(config, sink_config)
        sink = make_sink(sink_config, config)
        take_priority(sink.nice)
        wire = open_wire(config, "sink")
        runner = Runner(sink_config.name, sink, wire)
        notifier.ready(f"{sink_config.kind} sink")
        try:
            while not stop:
                wire.wait(POLL_S)
                runner.turn(time.monotonic())
                notifier.alive()
            notifier.stopping()
            runner.turn(time.monotonic())
        finally:
            sink.close()
            wire.close(flush_s=0.5)
            notifier.close()
    log.info("sink stops", sink=sink_config.name, delivered=runner.delivered)
    return 0
