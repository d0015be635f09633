"""`innkeeper usage`: what models consumed and what that cost, in the store itself, beside a server or without one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.stores import with_store
from innkeeper.cli.tables import show
from innkeeper.config import use_command_line
from innkeeper.core.credits import digits_of
from innkeeper.core.errors import Invalid
from innkeeper.core.periods import begins_at, ends_before
from innkeeper.core.times import Instant

if TYPE_CHECKING:
    from innkeeper.services.rating import Rated

_TOTALS = ("MODEL", "RUNS", "INPUT TOKENS", "OUTPUT TOKENS", "COST")
_RATED = ("MODEL", "RUNS", "CHANGED", "BEFORE", "AFTER", "PRICE")

app = typer.Typer(
    name="usage",
    help="See what models consumed and what that cost; work the costs out anew.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Since = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="A day, in UTC, or a time such as 2026-01-31T12:00:00Z.", show_default=False),
]
Until = Annotated[
    str | None, typer.Option(metavar="DATE", help="A day, which belongs to the period, or a time.", show_default=False)
]


@app.command("show")
def show_usage(
    since: Since = None,
    until: Until = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this user's credentials; needs --org.", show_default=False)
    ] = None,
    org: Annotated[str | None, typer.Option(metavar="NAME", help="Of this organization.", show_default=False)] = None,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Show tokens and costs by model."""
    if user is not None and org is None:
        raise Invalid("--user: name the organization, too: --org NAME.")
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    begin, end = _period(since, until)
    found = with_store(lambda settings, store: store.credits.totals(begin, end, organization=org, user=user))
    rows = [
        (one.model or "-", str(one.runs), str(one.input_tokens), str(one.output_tokens), _plain(one.cost))
        for one in found
    ]
    show(_TOTALS, rows)


@app.command("rerate")
def rerate(
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would change.")] = False,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Work out what past runs cost by the prices that hold now (MODEL_PRICES); balances are not touched."""
    from innkeeper.cli.operators import operator
    from innkeeper.wiring import open_rating

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    begin, end = _period(since, until)
    found = with_store(
        lambda settings, store: open_rating(settings, store).rerate(operator(), begin, end, is_dry=dry_run)
    )
    show(_RATED, [_row(one) for one in found])


def _period(since: str | None, until: str | None) -> tuple[Instant, Instant]:
    end = Instant(time.time_ns() // 1000 + 1)
    return (
        Instant(0) if since is None else _read(begins_at, since, "--since"),
        end if until is None else min(_read(ends_before, until, "--until"), end),
    )


def _read(read: Callable[[str], Instant], text: str, option: str) -> Instant:
    try:
        return max(read(text), Instant(0))
    except ValueError as error:
        raise Invalid(f"{option}: {error}.") from None


def _row(rated: Rated) -> tuple[str, ...]:
    price = "yes" if rated.is_priced else "none: left as it is"
    return (
        rated.model or "-", str(rated.runs), str(rated.changed), _plain(rated.before), _plain(rated.after), price
    )  # fmt: skip


def _plain(cost: int | None) -> str:
    return "-" if cost is None else digits_of(cost)
