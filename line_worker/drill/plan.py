"""Which faults a drill sets off and when: a pure function of the seed, so that a drill can be run again."""

from __future__ import annotations

import random
from dataclasses import dataclass

WEIGHTS = {
    "kill": 4,  # SIGKILL to a worker
    "stop": 3,  # SIGSTOP to a worker for a while
    "hang": 2,  # a worker's loop hangs
    "oom": 2,  # a worker's device runs out of memory
    "device": 1,  # a worker's device fails
    "nonfinite": 1,  # a worker's outputs are not finite
    "leak": 1,  # a worker leaks memory and descriptors until it is replaced
    "corrupt": 4,  # bytes in shared memory are flipped
    "flood": 2,  # a stranger sends rubbish and old news to the hub
    "diskfull": 1,  # the journal cannot be written for a second
    "sink": 3,  # a sink is killed or stopped
    "clock": 3,  # a process's wall clock jumps by hours
    "hub": 1,  # the hub is killed, stopped, or hangs
    "source": 1,  # the source is killed or stopped
}
KINDS = tuple(WEIGHTS)
EVERY_S, RATE = 1.4, 75.0  # mean time between two faults, and parts a second
BUNDLE_EVERY_S, BUNDLE_RATE = 6.0, 5.0  # with a bundle, which takes its time to load and to judge
QUIET_S = (1.0, 8.0)  # without faults at the start and at the end
LONGEST_QUIET = 0.25  # of the whole: a short drill is not all quiet


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at` seconds after the start, `way` of those its kind has, on process `which`, for `seconds`."""

    at: float
    kind: str
    way: int
    which: int
    seconds: float


def plan(seed: int, seconds: float, kinds: tuple[str, ...] = KINDS, every_s: float = EVERY_S) -> tuple[Fault, ...]:
    """Return the faults of a drill of `seconds`, in order of time.

    Half of the time between two faults is fixed, so that recovery is seen, and half is random, so that it is not
    always complete.
    """
    rng = random.Random(seed)
    weights = [WEIGHTS[kind] for kind in kinds]
    at, faults = min(QUIET_S[0], LONGEST_QUIET * seconds), []
    while at < seconds - min(QUIET_S[1], LONGEST_QUIET * seconds):
        [kind] = rng.choices(kinds, weights)
        faults.append(Fault(at, kind, rng.randrange(12), rng.randrange(12), rng.uniform(0.2, 1.5)))
        at += every_s / 2 + rng.expovariate(2 / every_s)
    return tuple(faults)
