"""`innkeeper config`: the settings that a server started here would have, and where each comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from innkeeper.cli.terminals import clean
from innkeeper.config import load_settings, use_command_line
from innkeeper.inventories import Entry, inventory

_HEADINGS = ("SETTING", "VALUE", "FROM")


def show_settings(config: Path | None, env_file: Path | None, *, as_json: bool) -> None:
    """Print every setting: as a table, in lines where nobody looks on, or as JSON.

    Raises: SetupError.
    """
    use_command_line({}, config=config, env_file=env_file)
    settings = load_settings()
    for doubt in settings.doubts:
        print(f"Warning: {clean(doubt)}", file=sys.stderr)
    entries = inventory(settings, shows_places=True)
    if as_json:
        print(json.dumps({entry.name: _as_json(entry) for entry in entries}, indent=2))
    elif sys.stdout.isatty():
        _print_table(entries)
    else:
        _print_lines(entries)


def _as_json(entry: Entry) -> dict[str, Any]:
    return {"value": entry.value, "key": f"{entry.section}.{entry.key}", "from": str(entry.origin)}


def _cells(entry: Entry) -> tuple[str, str, str]:
    return clean(f"{entry.section}.{entry.key}"), clean(_text(entry.value)), clean(str(entry.origin))


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _print_table(entries: list[Entry]) -> None:
    table = Table(*_HEADINGS)
    for entry in entries:
        style = "dim" if entry.origin.kind == "default" else ""
        table.add_row(*(Text(cell, style) for cell in _cells(entry)))
    Console().print(table)


def _print_lines(entries: list[Entry]) -> None:
    rows = [_HEADINGS, *map(_cells, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
