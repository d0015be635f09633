"""`innkeeper tokens`: make, list and revoke credentials in the store itself, beside a server or without one."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.tables import show
from innkeeper.config import use_command_line
from innkeeper.core.times import Instant, isoformat
from innkeeper.core.tokens import Token

if TYPE_CHECKING:
    from innkeeper.apps.tokens import TokenManager

T = TypeVar("T")

_PAGE = 200
_HEAD = ("ID", "USER", "ORGANIZATION", "ROLE", "SCOPES", "STATE", "LAST USED", "NAME")
_ELSEWHERE = """\
Warning: the database has tokens, too. They open nothing while tokens are kept in Redis; with TOKEN_STORE=database they
are the ones that count."""

app = typer.Typer(
    name="tokens",
    help="Make, list and revoke the tokens with which programs are let in.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("create")
def create(
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose it is; without a name it is a user of its own.", show_default=False),
    ] = None,
    org: Annotated[str | None, typer.Option(metavar="NAME", help="The organization. [default]")] = None,
    role: Annotated[str, typer.Option(metavar="ROLE", help="admin, user or read.", show_default=True)] = "user",
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="code, observability or impersonate; may be repeated.", show_default=False),
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long it holds; without, for good.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)] = "",
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Make a token and print it, this one time."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    made = _with_tokens(
        lambda tokens: tokens.create(user, role, organization=org, scopes=scope or (), ttl=ttl, name=name)
    )
    print(made.text)


@app.command("list")
def list_tokens(
    config: Config = None, env_file: EnvFile = None, data_dir: DataDir = None, debug: Debug = False
) -> None:
    """List tokens, newest first."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    rows = _with_tokens(_rows)
    if asyncio.run(_are_elsewhere()):
        print(_ELSEWHERE, file=sys.stderr)
    show(_HEAD, rows)


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID_OR_TOKEN", help="The token, or its id.")],
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Let a token open nothing any more; servers heed it within a second."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    token_id = _with_tokens(lambda tokens: tokens.revoke(token))
    print(f"Revoked {token_id}.", file=sys.stderr)


def _with_tokens(work: Callable[[TokenManager], Awaitable[T]]) -> T:
    from innkeeper.apps.tokens import TokenManager

    logging.getLogger("innkeeper").addHandler(logging.NullHandler())  # what goes wrong is told in one line

    async def run() -> T:
        async with TokenManager.open(through="cli") as tokens:
            return await work(tokens)

    return asyncio.run(run())


async def _are_elsewhere() -> bool:
    from innkeeper.apps.tokens import TokenManager

    return await TokenManager.are_elsewhere()


async def _rows(tokens: TokenManager) -> Sequence[tuple[str, ...]]:
    found: list[Token] = []
    has_more = True
    while has_more:
        page, has_more = await tokens.list(limit=_PAGE, after=found[-1].id if found else None)
        found += page
    now = tokens.now()
    return [_row(token, now) for token in found]


def _row(token: Token, now: Instant) -> tuple[str, ...]:
    used = "never" if token.last_used_at is None else isoformat(token.last_used_at)[:16] + "Z"
    scopes = ",".join(sorted(token.scopes)) or "-"
    owner = token.owner
    return token.id, owner.user, owner.organization, token.role.value, scopes, _state(token, now), used, token.name


def _state(token: Token, now: Instant) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is None:
        return "valid"
    moment = isoformat(token.expires_at)[:19] + "Z"
    return f"until {moment}" if token.is_valid_at(now) else f"expired {moment}"
