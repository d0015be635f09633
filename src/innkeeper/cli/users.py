"""`innkeeper users`: erase what is stored of a user, in the store itself, beside a server or without one."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.stores import with_store
from innkeeper.config import Settings, use_command_line
from innkeeper.core.errors import Invalid

if TYPE_CHECKING:
    from innkeeper.services.erasures import Erased
    from innkeeper.wiring import Store

_LONGEST = 256
_UNSTORED = re.compile("[\\x00\\ud800-\\udfff]")

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
    _check(user, "USER")
    if org is not None:
        _check(org, "--org")
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    if not yes:
        _ask(user, org)
    _tell(user, with_store(lambda settings, store: _forget(settings, store, user, org)))


def _check(name: str, argument: str) -> None:
    if not 0 < len(name) <= _LONGEST or _UNSTORED.search(name):
        raise Invalid(f"{argument}: must have 1 to {_LONGEST} characters that a store can hold.")


def _ask(user: str, org: str | None) -> None:
    where = "in every organization" if org is None else f"in the organization {org}"
    if not sys.stdin.isatty():
        raise Invalid("This cannot be undone: say --yes where nobody can be asked.", param="yes")
    typer.confirm(f"Erase everything that is stored of {user} {where}? This cannot be undone.", abort=True, err=True)


async def _forget(settings: Settings, store: Store, user: str, org: str | None) -> Erased:
    from innkeeper.cli.operators import operator
    from innkeeper.wiring import open_erasures

    async with open_erasures(settings, store) as erasures:
        return await erasures.forget(operator(), user, org)


def _tell(user: str, erased: Erased) -> None:
    print(f"Erased {user}: {erased.rows} rows." if erased.rows else f"Nothing is stored of {user}.")
    if not erased.is_scrubbed:
        print(
            "The database is large and is being served, so that what was erased may still be in the free space of its"
            " file: stop the server and run this again to remove it there, too.",
            file=sys.stderr,
        )
