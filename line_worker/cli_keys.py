"""`line-worker keys ...`: who may speak to a line that spans several hosts; no logic lives here, see `wire.keys`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

keys_app = typer.Typer(help="Keys of a line that spans several hosts.")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Such as hub, source, worker-pc2.")]
KeysDir = Annotated[Path, typer.Option("--dir", help="The folder of [line.keys] dir.")]


@keys_app.command("new")
def new(
    name: KeyName,
    role: Annotated[str, typer.Option(help="hub | source | worker | sink: the only one the key may play.")],
    folder: KeysDir,
) -> int:
    """Make a key: NAME.secret for the host that uses it, NAME.public for the hub's allow-list."""
    from line_worker.wire.curve import pair
    from line_worker.wire.keys import create

    key = create(folder, name, role, pair)
    typer.echo(f"{folder / name}.secret  move it to the host where {name} runs (mode 0400), keep no other copy")
    where = (
        "copy it to every other host" if role == "hub" else "copy it to the hub's folder: there it is the permission"
    )
    typer.echo(f"{folder / name}.public  {where}; fingerprint {key.fingerprint}")
    return 0


@keys_app.command("list")
def list_keys(folder: KeysDir, as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> int:
    """Show the keys of a folder; exit code 1 when a file of it cannot be used."""
    from line_worker.wire.keys import listed

    keys, problems = listed(folder)
    if as_json:
        typer.echo(json.dumps({"keys": keys, "problems": problems}))
        return 1 if problems else 0
    for key in keys:
        secret = "with its secret" if key["secret"] else ""
        typer.echo(f"{key['name']:32}  {key['role']:6}  {key['fingerprint']}  {key['state']:8}{secret}".rstrip())
    for problem in problems:
        typer.echo(problem, err=True)
    return 1 if problems else 0


@keys_app.command("revoke")
def revoke_key(name: KeyName, folder: KeysDir) -> int:
    """Refuse a key from now on, without a restart; run it on the hub's host."""
    from line_worker.wire.keys import revoke

    key = revoke(folder, name)
    typer.echo(f"{name} ({key.role}, {key.fingerprint}) is revoked: a hub that uses {folder} hears it no more")
    return 0
