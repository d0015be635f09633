"""`innkeeper credits`: what is left to users and organizations, in the store itself, beside a server or without one."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from innkeeper.cli.commands import Config, DataDir, Debug, EnvFile
from innkeeper.cli.stores import with_store
from innkeeper.cli.tables import show
from innkeeper.config import use_command_line
from innkeeper.core.credits import ORGANIZATION, Balance, amount_of, digits_of
from innkeeper.core.errors import Invalid
from innkeeper.core.times import isoformat
from innkeeper.services.tokens import ORGANIZATION as DEFAULT_ORGANIZATION

if TYPE_CHECKING:
    from innkeeper.services.balances import Balances

T = TypeVar("T")

_PAGE = 200
_LONGEST = 256
_HEAD = ("ORGANIZATION", "USER", "BALANCE", "AVAILABLE", "RESERVED", "CHANGED")

app = typer.Typer(
    name="credits",
    help="See and set what users and organizations may spend. Who has no balance is not bounded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="The user; without, the whole organization's.", show_default=False),
]
Org = Annotated[str, typer.Option("--org", metavar="NAME", help="The organization.", show_default=True)]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept beside the change.", show_default=False)]


@app.command("show")
def show_balances(
    user: User = None,
    org: Org = DEFAULT_ORGANIZATION,
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Show what bounds a user: its own balance and its organization's."""
    from innkeeper.core.identity import Caller, Owner, Role

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    organization, name = _place(org, user)
    operator = Caller(Owner(organization, ""), Role.ADMIN)
    holding = _with_balances(lambda balances: balances.mine(operator, organization, name))
    found = [one for one in (holding.organization, holding.user) if one is not None]
    if not found:
        print("Nothing bounds them: there is no balance.", file=sys.stderr)
    show(_HEAD, [_row(one) for one in found])


@app.command("set")
def set_balance(
    amount: Annotated[str, typer.Argument(metavar="CREDITS", help="How much is left from now on, such as 12.5.")],
    user: User = None,
    org: Org = DEFAULT_ORGANIZATION,
    reason: Reason = "",
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Set what is left; from now on, runs that cost more are refused."""
    from innkeeper.cli.operators import operator

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    whose, credits, why = _place(org, user), _amount(amount), _reason(reason)
    balance = _with_balances(lambda balances: balances.set(operator(), *whose, credits, why))
    show(_HEAD, [_row(balance)])


@app.command("add")
def add_credits(
    amount: Annotated[str, typer.Argument(metavar="CREDITS", help="How much more may be spent, such as 12.5.")],
    user: User = None,
    org: Org = DEFAULT_ORGANIZATION,
    reason: Reason = "",
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Add to a balance, or make one."""
    from innkeeper.cli.operators import operator

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    whose, credits, why = _place(org, user), _amount(amount), _reason(reason)
    entry, _ = _with_balances(lambda balances: balances.add(operator(), *whose, credits, why))
    print(f"{digits_of(entry.balance)} credits are there now.", file=sys.stderr)


@app.command("remove")
def remove(
    user: User = None,
    org: Org = DEFAULT_ORGANIZATION,
    reason: Reason = "",
    config: Config = None,
    env_file: EnvFile = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Take a balance away, so that nothing bounds that user or organization any more."""
    from innkeeper.cli.operators import operator

    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    whose, why = _place(org, user), _reason(reason)
    _with_balances(lambda balances: balances.remove(operator(), *whose, why))
    print("Removed. Nothing of that name bounds runs any more.", file=sys.stderr)


@app.command("list")
def list_balances(
    config: Config = None, env_file: EnvFile = None, data_dir: DataDir = None, debug: Debug = False
) -> None:
    """List every balance, in the order of organization and user."""
    use_command_line({"data_dir": data_dir, "debug": debug or None}, config=config, env_file=env_file)
    show(_HEAD, [_row(one) for one in _with_balances(_all)])


def _with_balances(work: Callable[[Balances], Awaitable[T]]) -> T:
    from innkeeper.wiring import open_balances

    return with_store(lambda settings, store: work(open_balances(store)))


async def _all(balances: Balances) -> Sequence[Balance]:
    found: list[Balance] = []
    has_more = True
    while has_more:
        after = (found[-1].organization, found[-1].user) if found else None
        page, has_more = await balances.page(limit=_PAGE, after=after)
        found += page
    return found


def _place(org: str, user: str | None) -> tuple[str, str | None]:
    return _name(org, "--org") or org, _name(user, "--user")


def _name(text: str | None, option: str) -> str | None:
    if text is not None and (not 0 < len(text) <= _LONGEST or not text.isprintable()):
        raise Invalid(f"{option}: must have 1 to {_LONGEST} printable characters.")
    return text


def _reason(text: str) -> str:
    if len(text) > 500 or not text.isprintable():
        raise Invalid("--reason: must have at most 500 printable characters.")
    return text


def _amount(text: str) -> Decimal:
    try:
        return amount_of(text)
    except ValueError as error:
        raise Invalid(f"CREDITS: {error}.") from None


def _row(balance: Balance) -> tuple[str, ...]:
    user = "(all together)" if balance.user == ORGANIZATION else balance.user
    amounts = map(digits_of, (balance.total, balance.available, balance.reserved))
    return balance.organization, user, *amounts, isoformat(balance.updated_at)[:19] + "Z"
