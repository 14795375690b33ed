"""An edge node of Sparkplug B and its devices, the cameras: births, data, death, and their numbers. Pure.

    NBIRTH, DBIRTH   all metrics, at every connection and when a host asks for a rebirth; NBIRTH has seq 0
    NDATA, DDATA     what has changed; each has the next seq, 255 is followed by 0
    NDEATH           the will of each connection; its bdSeq is that of the birth which it ends

`bdSeq` counts connections, and goes on where an earlier process was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from line_worker.sink.mqtt.message import Message
from line_worker.sink.sparkplug.payload import Metric, Type, Value, encode
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from line_worker.wire.messages import Outcome

NAMESPACE = "spBv1.0"
REBIRTH = "Node Control/Rebirth"
COUNT = 256  # of seq and of bdSeq

_RESULT = {
    "ResultId": Type.STRING,
    "PartId": Type.STRING,
    "MeasId": Type.UINT64,
    "Trigger": Type.UINT64,
    "Verdict": Type.STRING,
    "Reason": Type.STRING,
    "Score": Type.DOUBLE,
    "Threshold": Type.DOUBLE,
    "LatencyMs": Type.DOUBLE,
    "InternalRecipeId": Type.STRING,
    "IsSimulated": Type.BOOLEAN,
}


class EdgeNode:
    """One connection after the other of one node. Times are Unix time in milliseconds."""

    def __init__(self, group: str, node: str, devices: Sequence[str], bd_seq: int) -> None:
        self._group, self._node, self._devices = group, node, devices
        self.bd_seq, self._seq = bd_seq, 0
        self._state: dict[str, str] = {}
        self.born_ms = 0

    @property
    def commands(self) -> str:
        """The topic of commands to this node."""
        return self._topic("NCMD")

    def connects(self) -> None:
        """Another connection begins."""
        self.bd_seq = (self.bd_seq + 1) % COUNT

    def death(self, now_ms: int) -> Message:
        """Return what ends this connection: its will, or our farewell."""
        return Message(self._topic("NDEATH"), encode([self._bd_seq()], now_ms, None))

    def births(self, now_ms: int) -> list[Message]:
        """Return what makes the node and its devices known; all counting begins anew."""
        self._seq, self.born_ms = 0, now_ms
        node = [self._bd_seq(), Metric(REBIRTH, Type.BOOLEAN, False), *_texts(self._state)]
        unknown = [Metric(name, kind, None) for name, kind in _RESULT.items()]
        births = [self._numbered("NBIRTH", node, now_ms)]
        return births + [self._numbered("DBIRTH", unknown, now_ms, device) for device in self._devices]

    def state(self, state: dict[str, Any], now_ms: int) -> list[Message]:
        """Take the station's state; returns what has to be told of it."""
        known = {f"Station/{name}": _text(value) for name, value in state.items()}
        changed = {name: text for name, text in known.items() if self._state.get(name) != text}
        new = not changed.keys() <= self._state.keys()
        self._state = known
        if new:  # a metric must be in the birth
            return self.births(now_ms)
        return [self._numbered("NDATA", _texts(changed), now_ms)] if changed else []

    def result(self, outcome: Outcome, *, simulated: bool) -> Message:
        """Return `outcome` as data of its camera."""
        at_ms = int(outcome.wall * 1000)
        values: dict[str, Value] = {
            "ResultId": str(outcome.key),
            "PartId": outcome.part_id,
            "MeasId": outcome.key.seq,
            "Trigger": outcome.trigger,
            "Verdict": outcome.verdict,
            "Reason": Reason(outcome.reason).name,
            "Score": outcome.score,
            "Threshold": outcome.threshold,
            "LatencyMs": outcome.latency_ms,
            "InternalRecipeId": outcome.bundle,
            "IsSimulated": simulated,
        }
        late = at_ms < self.born_ms
        metrics = [Metric(name, _RESULT[name], value, late) for name, value in values.items()]
        return self._numbered("DDATA", metrics, at_ms, outcome.key.camera)

    def _numbered(self, kind: str, metrics: list[Metric], at_ms: int, device: str = "") -> Message:
        payload = encode(metrics, at_ms, self._seq)
        self._seq = (self._seq + 1) % COUNT
        return Message(self._topic(kind, device), payload, qos=0)

    def _bd_seq(self) -> Metric:
        return Metric("bdSeq", Type.INT64, self.bd_seq)

    def _topic(self, kind: str, device: str = "") -> str:
        return "/".join(filter(None, (NAMESPACE, self._group, kind, self._node, device)))


def _texts(values: dict[str, str]) -> list[Metric]:
    return [Metric(name, Type.STRING, text) for name, text in values.items()]


def _text(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value or "")
