"""Key files: made, listed, revoked, refused when others can read or change them; and the pure decision who comes in."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from line_worker.cli import main
from line_worker.errors import KeysError
from line_worker.wire import zap
from line_worker.wire.curve import pair
from line_worker.wire.keys import AllowList, Key, create, listed, read_public, read_secret, revoke

PUBLIC = "a" * 40


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_two_files_of_which_one_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        key = create(tmp_path / "keys", "source-pc2", "source", pair)
    finally:
        os.umask(old)
    secret, public = tmp_path / "keys" / "source-pc2.secret", tmp_path / "keys" / "source-pc2.public"
    assert (mode(secret), mode(public)) == (0o400, 0o644)
    assert read_public(public) == key
    assert read_secret(secret, "source").key == key
    assert read_secret(secret, "source").secret not in public.read_text()
    assert read_secret(secret, "source").secret not in repr(read_secret(secret, "source"))


def test_a_name_is_never_given_twice_not_even_a_revoked_one(tmp_path: Path) -> None:
    create(tmp_path, "w", "worker", pair)
    with pytest.raises(KeysError, match=r"w\.public exists, so no key is made"):
        create(tmp_path, "w", "worker", pair)
    revoke(tmp_path, "w")
    (tmp_path / "w.secret").unlink()
    with pytest.raises(KeysError, match=r"w\.revoked exists"):
        create(tmp_path, "w", "worker", pair)


@pytest.mark.parametrize(("name", "role"), [("../up", "hub"), ("", "hub"), ("x", "boss"), ("a b", "sink")])
def test_names_and_roles_that_are_none(tmp_path: Path, name: str, role: str) -> None:
    with pytest.raises(KeysError, match="give a name"):
        create(tmp_path, name, role, pair)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [0o440, 0o404, 0o420, 0o401])
def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path, bits: int) -> None:
    create(tmp_path, "w", "worker", pair)
    (tmp_path / "w.secret").chmod(bits)
    with pytest.raises(KeysError, match=r"can be read by others.*chmod 400"):
        read_secret(tmp_path / "w.secret", "worker")


def test_a_public_key_that_others_can_change_permits_nobody(tmp_path: Path) -> None:
    create(tmp_path, "w", "worker", pair)
    (tmp_path / "w.public").chmod(0o666)
    allow = AllowList(tmp_path)
    allow.look()
    assert not allow.keys
    assert "can be changed by others" in allow.problems[0]


def test_a_secret_of_another_role_is_not_used(tmp_path: Path) -> None:
    create(tmp_path, "w", "worker", pair)
    with pytest.raises(KeysError, match="is a key of role worker, so it cannot be used as source"):
        read_secret(tmp_path / "w.secret", "source")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"name": "x", "role": "worker", "public": 5}',
        "\x00" * 5000,
        '{"name": "y"}',
    ],
)
def test_files_that_are_no_keys_permit_nobody_and_spoil_nothing(tmp_path: Path, text: str) -> None:
    good = create(tmp_path, "good", "worker", pair)
    (tmp_path / "x.public").write_text(text)
    (tmp_path / "x.public").chmod(0o644)
    allow = AllowList(tmp_path)
    assert allow.look()
    assert allow.keys == {good.public: good}
    assert len(allow.problems) == 1
    with pytest.raises(KeysError, match=r"x\.public"):
        read_public(tmp_path / "x.public")


def test_the_allow_list_follows_its_folder(tmp_path: Path) -> None:
    allow = AllowList(tmp_path)
    allow.look()
    key = create(tmp_path, "w", "worker", pair)
    assert allow.look()
    assert allow.may(key.public, "worker")
    assert not allow.may(key.public, "source"), "the role is part of the permission"
    assert not allow.look(), "nothing has changed"
    revoke(tmp_path, "w")
    assert allow.look()
    assert not allow.may(key.public, "worker")


def test_a_folder_that_is_gone_permits_nobody(tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "w", "worker", pair)
    allow = AllowList(tmp_path / "keys")
    allow.look()
    assert allow.may(key.public, "worker")
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    allow.look()
    assert not allow.keys
    assert "nobody is admitted" in allow.problems[0]


def test_revoking_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="so nothing is revoked"):
        revoke(tmp_path, "nobody")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["keys", *arguments, "--dir", str(tmp_path / "keys")])
        return int(end.value.code or 0), capsys.readouterr().out

    assert run("new", "hub", "--role", "hub")[0] == 0
    assert run("new", "w", "--role", "worker")[0] == 0
    assert run("new", "w", "--role", "worker")[0] == 3
    assert run("revoke", "w")[0] == 0
    code, text = run("list", "--json")
    assert code == 0
    found = json.loads(text)
    assert [(key["name"], key["role"], key["state"]) for key in found["keys"]] == [
        ("hub", "hub", "valid"),
        ("w", "worker", "revoked"),
    ]
    (tmp_path / "keys" / "hub.secret").chmod(0o444)
    assert run("list")[0] == 1
    assert listed(tmp_path / "keys")[1]


# ---- who comes in ----------------------------------------------------------------------------------------------------

WORKER, SOURCE = Key("w", "worker", PUBLIC), Key("s", "source", "b" * 40)
ALLOWED = {key.public: key for key in (WORKER, SOURCE)}


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (zap.Request(b"1", "line-worker/work", "10.0.0.2", "CURVE", PUBLIC), ""),
        (zap.Request(b"1", "line-worker/crops", "10.0.0.2", "CURVE", PUBLIC), ""),
        (zap.Request(b"1", "line-worker/frames", "10.0.0.2", "CURVE", "b" * 40), ""),
        (zap.Request(b"1", "line-worker/frames", "10.0.0.2", "CURVE", PUBLIC), "role"),
        (zap.Request(b"1", "line-worker/work", "10.0.0.2", "CURVE", "c" * 40), "unknown key"),
        (zap.Request(b"1", "line-worker/work", "10.0.0.2", "NULL", PUBLIC), "mechanism"),
        (zap.Request(b"1", "line-worker/work", "10.0.0.2", "PLAIN", PUBLIC), "mechanism"),
        (zap.Request(b"1", "line-worker/work", "10.0.0.2", "CURVE", ""), "mechanism"),
        (zap.Request(b"1", "global", "10.0.0.2", "CURVE", PUBLIC), "domain"),
        (zap.Request(b"1", "", "10.0.0.2", "CURVE", PUBLIC), "domain"),
    ],
)
def test_admit(request_: zap.Request, cause: str) -> None:
    admission = zap.admit(request_, ALLOWED)
    assert admission.cause == cause
    assert (admission.code, admission.user_id) == ((400, "") if cause else (200, request_.public))


def test_z85_is_the_one_of_the_rfc() -> None:
    assert zap.z85(bytes.fromhex("864FD26FB559F75B")) == "HelloWorld"


@given(st.binary(min_size=32, max_size=32))
def test_z85_agrees_with_pyzmq(key: bytes) -> None:
    assert zap.z85(key) == z85.encode(key).decode()


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_no_request_is_beyond_an_answer(parts: list[bytes]) -> None:
    for candidate in (parts, [zap.VERSION, *parts]):
        request = zap.decode(candidate)
        if request is not None:
            assert zap.admit(request, ALLOWED).code == 400
            assert len(zap.encode(request, zap.admit(request, ALLOWED))) == 6
