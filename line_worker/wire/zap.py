"""Who may come in: ZAP (ZeroMQ RFC 27), the pure part.

    request   "1.0", request id, domain, address, identity, mechanism, public key (32 bytes)
    reply     "1.0", request id, status code, status text, user id, metadata

A link's domain is its name, so a key is admitted only where its role has something to do. The user id that every
later message of the connection carries is the public key itself: a key that is revoked is refused by it, also on a
connection that is open already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from line_worker.wire.keys import Key, fingerprint
from line_worker.wire.links import LINKS

VERSION = b"1.0"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
ROLE_OF_DOMAIN = {f"line-worker/{link.name}": link.many for link in LINKS}


@dataclass(frozen=True, slots=True)
class Request:
    """What libzmq asks: `public` is the client's key in Z85, "" where there is none."""

    request_id: bytes
    domain: str
    address: str
    mechanism: str
    public: str


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer: 200 with the user id, or 400 and why; `cause` is one of a few words, to count by."""

    code: int
    user_id: str
    why: str
    cause: str = ""


def domain_of(link_name: str) -> str:
    """Return the ZAP domain of a link."""
    return f"line-worker/{link_name}"


def decode(parts: Sequence[bytes]) -> Request | None:
    """Return the request in `parts`, None when it is none."""
    if len(parts) < 6 or parts[0] != VERSION:
        return None
    _, request_id, domain, address, _, mechanism, *credentials = parts
    key = credentials[0] if len(credentials) == 1 and len(credentials[0]) == 32 else b""
    return Request(request_id, _text(domain), _text(address), _text(mechanism), z85(key))


def encode(request: Request, admission: Admission) -> list[bytes]:
    """Return the parts of the reply."""
    status = [str(admission.code).encode(), admission.why.encode()]
    return [VERSION, request.request_id, *status, admission.user_id.encode(), b""]


def admit(request: Request, allowed: Mapping[str, Key], domains: Mapping[str, str] = ROLE_OF_DOMAIN) -> Admission:
    """Decide: a CURVE key on the allow-list, whose role is the one of the domain. `allowed` is by public key."""
    role = domains.get(request.domain)
    if role is None:
        return _no("domain", f"domain {request.domain!r} is not ours")
    if request.mechanism != "CURVE" or not request.public:
        return _no("mechanism", f"mechanism {request.mechanism!r} proves nothing; CURVE is needed")
    key = allowed.get(request.public)
    if key is None:
        return _no("unknown key", f"key {fingerprint(request.public)} is not on the allow-list")
    if key.role != role:
        return _no("role", f"key {key.name} is one of role {key.role}; here {role} is needed")
    return Admission(200, key.public, "OK")


def z85(data: bytes) -> str:
    """Return `data`, a multiple of 4 bytes, in Z85 (ZeroMQ RFC 32)."""
    words = (int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))
    return "".join(_DIGITS[word // 85**power % 85] for word in words for power in range(4, -1, -1))


def _no(cause: str, why: str) -> Admission:
    return Admission(400, "", why, cause)


def _text(part: bytes) -> str:
    return part.decode("ascii", "replace")[:200]
