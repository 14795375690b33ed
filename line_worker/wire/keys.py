"""Keys of a line that spans several hosts: small JSON files in one folder a host.

    NAME.public    {"name", "role", "public"}             may be read and copied by anybody; never changed by others
    NAME.secret    the same and "secret"                  mode 0400: whoever reads it can speak as NAME
    NAME.revoked   what `revoke` makes of NAME.public

The hub admits every key that lies in its folder as `.public`, each only on the links of its role; so a key is added by
copying a file and revoked by renaming one, while the line runs. Every other host holds its own secrets and the hub's
public key, by which it knows the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from line_worker.errors import KeysError

ROLES = ("hub", "source", "worker", "sink")
LENGTH = 40  # characters of a key in Z85
MAX_FILE = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class Key:
    """The public half: who it belongs to, and the only role it may play."""

    name: str
    role: str
    public: str

    @property
    def fingerprint(self) -> str:
        """A short name of it, to compare two copies by eye."""
        return fingerprint(self.public)


@dataclass(frozen=True, slots=True)
class Secret:
    """Both halves."""

    key: Key
    secret: str

    def __repr__(self) -> str:  # never into a log
        return f"Secret({self.key.name})"


def fingerprint(public: str) -> str:
    """Return a short name of a public key."""
    return hashlib.sha256(public.encode()).hexdigest()[:12]


Pair = Callable[[], tuple[str, str]]  # makes a new public and secret key


def create(folder: Path, name: str, role: str, pair: Pair) -> Key:
    """Write a new key's two files; returns its public half.

    Raises:
        KeysError: the name or role is none, the name is taken (a revoked name stays taken), or nothing can be written.
    """
    if not _NAME.fullmatch(name) or role not in ROLES:
        raise KeysError(
            f"key {name!r}, role {role!r}: give a name of letters, digits, . _ - and a role: {', '.join(ROLES)}"
        )
    taken = [kind for kind in ("public", "secret", "revoked") if (folder / f"{name}.{kind}").exists()]
    if taken:
        raise KeysError(f"{folder / name}.{taken[0]} exists, so no key is made; choose another name")
    public, secret = pair()
    fields = {"name": name, "role": role, "public": public}
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(folder / f"{name}.secret", {**fields, "secret": secret}, 0o400)
        _write(folder / f"{name}.public", fields, 0o644)
    except OSError as error:
        raise KeysError(f"{folder}: cannot be written ({error}), so there is no key; choose another --dir") from error
    return Key(name, role, public)


def revoke(folder: Path, name: str) -> Key:
    """Take `name` off the allow-list; a hub that runs refuses it from its next look at the folder on.

    Raises:
        KeysError: there is no such key.
    """
    path = folder / f"{name}.public"
    if not _NAME.fullmatch(name) or not path.exists():
        raise KeysError(f"key {name!r} is not in {folder}, so nothing is revoked; see `line-worker keys list`")
    key = read_public(path)
    try:
        path.rename(path.with_suffix(".revoked"))
    except OSError as error:
        raise KeysError(
            f"{path}: cannot be renamed ({error}), so {name} is NOT revoked; run it as its owner"
        ) from error
    return key


def read_public(path: Path) -> Key:
    """Return the key in `path`.

    Raises:
        KeysError: the file is missing, not a key, named otherwise, or can be changed by others.
    """
    return _key(path, _fields(path, stat.S_IWGRP | stat.S_IWOTH, f"chmod 644 {path}"))


def read_secret(path: Path, role: str = "") -> Secret:
    """Return the secret key in `path`, which must be one for `role` if that is given.

    Raises:
        KeysError: the file is missing, not a key, of another role, or can be read by others.
    """
    fields = _fields(path, stat.S_IRWXG | stat.S_IRWXO, f"chmod 400 {path}")
    key, secret = _key(path, fields), str(fields.get("secret"))
    if not _is_z85(secret):
        raise KeysError(f"{path}: holds no secret key; make one with `line-worker keys new`")
    if role and key.role != role:
        raise KeysError(
            f"{path}: is a key of role {key.role}, so it cannot be used as {role}; make one with --role {role}"
        )
    return Secret(key, secret)


def allowed(folder: Path) -> tuple[dict[str, Key], list[str]]:
    """Return the allow-list of `folder` by public key, and what is wrong with files that are therefore not on it."""
    found: dict[str, Key] = {}
    problems = []
    for path in sorted(folder.glob("*.public")):
        try:
            key = read_public(path)
        except KeysError as error:
            problems.append(str(error))
        else:
            found[key.public] = key
    return found, problems


def listed(folder: Path) -> tuple[list[dict[str, str | bool]], list[str]]:
    """Return every key of `folder`, valid or revoked, as plain values, and what is wrong with its files.

    Raises:
        KeysError: the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".public", ".secret", ".revoked"))
    except OSError as error:
        raise KeysError(f"{folder}: cannot be read ({error}); give the folder of [line.keys] dir") from error
    found: list[dict[str, str | bool]] = []
    problems = []
    for path in paths:
        try:
            if path.suffix == ".secret":
                read_secret(path)
                continue
            key = read_public(path)
        except KeysError as error:
            problems.append(str(error))
        else:
            state = "valid" if path.suffix == ".public" else "revoked"
            secret = path.with_suffix(".secret") in paths
            found.append(
                {"name": key.name, "role": key.role, "fingerprint": key.fingerprint, "state": state, "secret": secret}
            )
    return found, problems


def _fields(path: Path, forbidden: int, remedy: str) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MAX_FILE + 1)
        fields = json.loads(text) if len(text) <= MAX_FILE else None
    except FileNotFoundError:
        raise KeysError(
            f"{path}: is missing; make it with `line-worker keys new`, or copy it from where it was made"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise KeysError(f"{path}: cannot be read as a key ({error}); copy it again or make a new one") from error
    if mode & forbidden:
        what = "read" if forbidden & stat.S_IRGRP else "changed"
        raise KeysError(f"{path}: can be {what} by others (mode {stat.S_IMODE(mode):04o}), so it is not used; {remedy}")
    if not isinstance(fields, dict):
        raise KeysError(f"{path}: is not a key; copy it again or make a new one")
    return fields


def _key(path: Path, fields: dict[str, str]) -> Key:
    name, role, public = (fields.get(field) for field in ("name", "role", "public"))
    if name != path.stem or role not in ROLES or not _is_z85(public):
        raise KeysError(f"{path}: is not the key {path.stem}; copy it again or make a new one")
    return Key(str(name), str(role), str(public))


def _is_z85(value: object) -> bool:
    return isinstance(value, str) and _Z85.fullmatch(value) is not None


def _write(path: Path, fields: dict[str, str], mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "w", encoding="ascii") as file:
        os.fchmod(handle, mode)  # whatever the umask
        file.write(json.dumps(fields, indent=2) + "\n")


class AllowList:
    """The keys that may come in, by public key; follows its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: list[tuple[str, int, int]] = []
        self.keys: dict[str, Key] = {}
        self.problems: list[str] = []

    def look(self) -> bool:
        """Read the folder again if a file of it has changed; True when it was read. An unreadable one admits nobody."""
        try:
            files = sorted(path for path in self._folder.iterdir() if path.suffix == ".public")
            seen = [(path.name, (found := path.stat()).st_mtime_ns, found.st_mode) for path in files]
        except OSError as error:
            self._seen, self.keys, self.problems = (
                [],
                {},
                [f"{self._folder}: cannot be read ({error}): nobody is admitted"],
            )
            return False
        if seen == self._seen:
            return False
        self._seen = seen
        self.keys, self.problems = allowed(self._folder)
        return True

    def may(self, public: str, role: str) -> bool:
        """Whether this key may (still) speak as `role`."""
        key = self.keys.get(public)
        return key is not None and key.role == role
