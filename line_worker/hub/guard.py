"""What stops the line until somebody looks: follows the outcomes, and keeps its alarms in the journal.

A hub that starts again finds the alarms of the one before it: only the operator's acknowledgement takes them away.
"""

from __future__ import annotations

import json
import time

import structlog

from line_worker.config import Config
from line_worker.errors import ConfigError, JournalError
from line_worker.hub.alarms import Alarm, Alarms
from line_worker.hub.canary import Canaries
from line_worker.hub.challenge import Challenges
from line_worker.hub.journal import Journal
from line_worker.hub.reopening import set_aside
from line_worker.hub.rules import RuleWatch
from line_worker.verdicts import Reason, StopCause, Verdict
from line_worker.wire.messages import Outcome

log = structlog.get_logger()

KEPT, DAMAGED, MET, UNDER_WAY = "alarms", "damaged journals", "challenges met", "challenges under way"


class Guard:
    """The alarms of one line and the rules that sound them."""

    def __init__(self, config: Config, journal: Journal, now: float) -> None:
        self._journal = journal
        self._of = {camera.name: camera.rules for camera in config.cameras}
        self._of |= {parts.name: parts.rules for parts in config.parts}
        self._rules = {camera: RuleWatch(rules) for camera, rules in self._of.items()}
        self.alarms = Alarms.load(journal.kept(KEPT))
        self._unsaved = False
        shortest = min(camera.deadline_ms for camera in config.cameras) / 1000
        self.canaries = Canaries({c.name: c.canary_every_s for c in config.cameras}, shortest, now)
        every = {c.name: c.challenge_every_s for c in config.cameras}
        self._met: dict[str, float] = json.loads(journal.kept(MET) or "{}")  # camera -> Unix time of the last one
        ages = {camera: max(0.0, time.time() - wall) for camera, wall in self._met.items()}
        self.challenges = Challenges(every, ages, now)
        self._stops = {c.name for c in config.cameras if c.challenge_overdue == "stop"}
        self._told: dict[str, float] = {}  # camera -> until when an overdue challenge has stopped the line
        for alarm in self.alarms:
            log.error("alarm still stands", what=str(alarm))
        self._tell_of_damage()
        self._tell_of_broken_off()

    def _tell_of_damage(self) -> None:
        """Sound an alarm for journals that were set aside since the last time one was sounded."""
        known, found = self._journal.kept(DAMAGED).split("\n"), set_aside(self._journal.path)
        new = [name for name in found if name not in known]
        if new:
            what = f"it was damaged and is now {', '.join(new)}; a new one was begun"
            self.sound(StopCause.JOURNAL, "", what)
            self.save()
            self._journal.keep(DAMAGED, "\n".join(found))

    def _tell_of_broken_off(self) -> None:
        """Sound an alarm for challenges that an earlier hub has not brought to their end."""
        for camera, (parts, failed) in json.loads(self._journal.kept(UNDER_WAY) or "{}").items():
            what = f"a challenge of {parts} known-bad parts was broken off by a restart, {failed} of them had failed"
            self.sound(StopCause.CHALLENGE, camera, f"{what}; take the others off the line, and begin it again")
            self._unsaved = True
        self.settle()

    @property
    def journal_error(self) -> str:
        """Why the journal is not to be trusted until that is acknowledged, "" while it is."""
        return "; ".join(alarm.text for alarm in self.alarms.standing(StopCause.JOURNAL))

    @property
    def distrusted(self) -> bool:
        """Whether the station has missed a defect and nobody has acknowledged that."""
        return bool(self.alarms.standing(StopCause.CANARY))

    def watch(self, now: float) -> None:
        """Sound what canaries and challenges have to say."""
        for camera, text in self.canaries.take_misses():
            self.sound(StopCause.CANARY, camera, text)
        for camera, text in self.challenges.overdue(now).items():
            if camera in self._stops and now >= self._told.get(camera, now):
                self._told[camera] = now + self.challenges.cameras[camera].every_s
                self.sound(StopCause.CHALLENGE, camera, text)

    def warnings(self, now: float) -> tuple[str, ...]:
        """What somebody should look at although nothing stops for it."""
        overdue = (f"camera {camera}: {text}" for camera, text in self.challenges.overdue(now).items())
        return (*self.canaries.warnings(now), *overdue)

    def challenge(self, camera: str, parts: int) -> None:
        """Expect `parts` known-bad parts; it is written down first, so that a restart cannot forget them.

        Raises:
            JournalError: it cannot be written down; the challenge does not begin.
        """
        self._journal.keep(UNDER_WAY, json.dumps(self.challenges.under_way() | {camera: (parts, 0)}))
        self.challenges.begin(camera, parts)

    def take_known_bad(self, outcome: Outcome, now: float) -> None:
        """Take the released outcome of a part of a challenge; the rules do not count it."""
        camera = outcome.key.camera
        if outcome.score is not None and outcome.threshold is not None and outcome.score <= outcome.threshold:
            self.sound(StopCause.CANARY, camera, f"a known-bad part passed ({outcome.key}), so nothing else may")
        if outcome.reason == Reason.SHUTDOWN:
            return  # the challenge is broken off, which the next hub will tell
        self._unsaved = True
        if self.challenges.decided(camera, Verdict(outcome.verdict), now):
            log.info("challenge met", camera=camera)
            self._met[camera] = time.time()

    def take(self, outcome: Outcome) -> None:
        """Take a released outcome; those of a hub that stops say nothing about the line."""
        watch = self._rules.get(outcome.key.camera)
        if watch is None or outcome.reason == Reason.SHUTDOWN:
            return
        for trip in watch.take(Verdict(outcome.verdict)):
            self.sound(trip.cause, outcome.key.camera, trip.text)

    def sound(self, cause: StopCause, camera: str, text: str) -> None:
        """Stop the line for `cause` until it is acknowledged; nothing new where it stands already."""
        alarm = Alarm(cause, camera, text, time.time())
        if self.alarms.sound(alarm):
            self._unsaved = True
            log.error("the line should stop", what=str(alarm))

    def acknowledge(self, cause: str = "") -> list[Alarm]:
        """Take away the alarms of `cause`, or all; returns them. The rules of their cameras begin anew.

        Raises:
            ConfigError: there is no such cause.
            JournalError: it cannot be written down; the alarms come back with the next hub.
        """
        if cause not in ("", *StopCause.__members__):
            raise ConfigError(f"cause {cause!r}", [f"is unknown; one of: {', '.join(StopCause.__members__)}"])
        cleared = self.alarms.acknowledge(StopCause[cause] if cause else None)
        for alarm in cleared:
            log.info("alarm acknowledged", what=str(alarm))
            if alarm.camera in self._of:
                self._rules[alarm.camera] = RuleWatch(self._of[alarm.camera])
        self._unsaved |= bool(cleared)
        self.save()
        return cleared

    def save(self) -> None:
        """Write alarms and challenges down where they have changed.

        Raises:
            JournalError: that is not possible now; `settle` tries again.
        """
        if self._unsaved:
            self._journal.keep(KEPT, self.alarms.dump())
            self._journal.keep(MET, json.dumps(self._met))
            self._journal.keep(UNDER_WAY, json.dumps(self.challenges.under_way()))
            self._unsaved = False

    def settle(self) -> None:
        """Write the alarms down, or at the next call: a journal that cannot be written is a FAULT already."""
        try:
            self.save()
        except JournalError as error:
            log.debug("alarms are not written yet", error=str(error))
