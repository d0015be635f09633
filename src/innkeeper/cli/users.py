"""`innkeeper users`: erase what is stored of a user, in the store itself, beside a server or without one."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.config import load_settings, use_command_line
from innkeeper.core.errors import Invalid

_LONGEST = 200

app = typer.Typer(
    name="users",
    help="Erase what is stored of users.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _users() -> None:
    """Erase what is stored of users."""


@app.command("forget")
def forget(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whom: who asked, or on whose behalf others did.")],
    org: Annotated[
        str | None, typer.Option("--org", metavar="NAME", help="In this organization only.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")] = False,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Erase a user's conversations, runs, logs, tokens and balance for good; what was consumed stays nameless."""
    if not 0 < len(user) <= _LONGEST:
        raise Invalid(f"USER: must have 1 to {_LONGEST} characters.", param="user")
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    if not yes:
        _ask(user, org)
    asyncio.run(_forget(user, org))


def _ask(user: str, org: str | None) -> None:
    where = "in every organization" if org is None else f"in the organization {org}"
    if not sys.stdin.isatty():
        raise Invalid("This cannot be undone: say --yes where nobody can be asked.", param="yes")
    typer.confirm(f"Erase everything that is stored of {user} {where}? This cannot be undone.", abort=True, err=True)


async def _forget(user: str, org: str | None) -> None:
    from innkeeper.cli.operators import operator
    from innkeeper.wiring import open_erasures, open_store

    settings = load_settings()
    store = open_store(settings)
    await store.open(serves=False)
    try:
        async with open_erasures(settings, store) as erasures:
            erased = await erasures.forget(operator(), user, org)
    finally:
        await store.close()
    print(f"Erased {user}: {erased.rows} rows." if erased.rows else f"Nothing is stored of {user}.")
    if not erased.is_scrubbed:
        print(
            "The database is large and is being served, so that what was erased may still be in the free space of its"
            " file: stop the server and run this again to remove it there, too.",
            file=sys.stderr,
        )
