"""`innkeeper agents`: which agents there are, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from innkeeper.cli.terminals import clean
from innkeeper.config import use_command_line
from innkeeper.core.errors import SetupError

_HEADINGS = ("NAME", "MODEL", "TOOLS", "DESCRIPTION")


def show_served(url: str, api_key: str | None) -> None:
    """Print the agents of a running server.

    Raises: SetupError.
    """
    from innkeeper.cli.clients import Connection

    with Connection(url, api_key) as connection:
        _print_table(_row(agent, is_default=agent["is_default"]) for agent in connection.agents())


def show_targets(targets: Sequence[str], config: Path | None, env_file: Path | None, *, debug: bool) -> None:
    """Print the agents of targets, without serving them.

    Raises: SetupError.
    """
    from innkeeper.apps.loading import kernel_of, load_app
    from innkeeper.apps.targets import locate
    from innkeeper.config import load_settings

    use_command_line({"debug": debug or None}, config=config, env_file=env_file)
    kernel = kernel_of(load_app(locate(targets or load_settings().targets, Path.cwd()), Path.cwd()))
    if kernel is None:
        raise SetupError("Which agents this app serves only the running server knows: innkeeper agents --url URL.")
    _print_table(_row(_shown(agent.describe()), is_default=agent.is_default) for agent in kernel.agents)


def _shown(description: Any) -> dict[str, Any]:
    """The fields that a row shows."""
    return {name: getattr(description, name) for name in ("name", "model", "tools", "description")}


def _row(agent: dict[str, Any], *, is_default: bool) -> tuple[str, ...]:
    name = agent["name"] + (" (default)" if is_default else "")
    description = (agent["description"] or "").strip().partition("\n")[0]
    return tuple(clean(cell) for cell in (name, agent["model"] or "-", ", ".join(agent["tools"]) or "-", description))


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    table = [_HEADINGS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS))]
    for row in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
