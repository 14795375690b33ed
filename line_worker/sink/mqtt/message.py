"""What is published over MQTT."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """A payload, the topic that it is published to, and how."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
