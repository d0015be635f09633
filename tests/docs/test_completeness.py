"""The pages are complete: what the code has, they tell of, and what they tell of, the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import AliasChoices
from starlette.routing import WebSocketRoute

from innkeeper import create_app
from innkeeper.apps.declarations import Declaration
from innkeeper.cli.commands import cli, mount_credits, mount_models, mount_runs
from innkeeper.config import MODES, Settings
from innkeeper.core.events.reading import _READERS
from innkeeper.http.dispatching import KEPT_NAMES, Dispatcher
from innkeeper.http.problems import _BY_STATUS, CODES, PROBLEMS, Problem
from innkeeper.runtimes.signatures import PARAMETERS
from innkeeper.yaml_keys import YAML_KEYS

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of every table row."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_on_its_page_with_its_variable_its_key_and_its_default(name: str) -> None:
    row = next((row for row in rows(page("settings.md")) if row[0] == f"`{name}`"), None)
    assert row is not None, f"docs/settings.md has no row for {name}"
    field = Settings.model_fields[name]
    alias = field.validation_alias
    variables = alias.choices if isinstance(alias, AliasChoices) else [alias]
    assert [f"`{variable}`" for variable in variables] == [row[2]]
    keys = [f"`{section}.{key}`" for section, keys in YAML_KEYS.items() for key, of in keys.items() if of == name]
    assert keys == ([row[3]] if row[3] else [])
    if isinstance(field.default, str | int | float):
        assert row[4] == f"`{_shown(field.default)}`"


def _shown(default: str | float) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return default if isinstance(default, str) else f"{default:.15g}"


def test_every_flag_that_is_a_setting_stands_beside_it() -> None:
    flags = {
        option
        for option in _options_of("serve")
        if option.removeprefix("--").replace("-", "_") in Settings.model_fields
    }
    shown = {row[1].strip("`") for row in rows(page("settings.md")) if row[1].startswith("`--")}
    assert shown == flags


def test_every_mode_is_told() -> None:
    for mode in MODES:
        assert f"`{mode}`" in page("settings.md")


def test_the_table_of_errors_is_that_of_the_code() -> None:
    shown = {
        (row[0].strip("`"), row[1], row[3])
        for row in rows(page("surfaces.md"))
        if re.fullmatch(r"`([A-Z_]+|previous_response_not_found)`", row[0])
    }
    assert shown - {("HTTP_ERROR", "any", "")} == {
        (problem.code, str(problem.status), {True: "yes", False: "no", None: ""}[problem.retry])
        for problem in _problems()
    }


def _problems() -> Iterator[Problem]:
    yield from PROBLEMS.values()
    yield from CODES.values()
    yield from _BY_STATUS.values()


@pytest.mark.parametrize("kind", sorted(str(kind) for kind in _READERS))
def test_every_type_of_event_is_told(kind: str) -> None:
    assert any(row[0] == f"`{kind}`" for row in rows(page("surfaces.md")))


def test_every_route_is_told() -> None:
    dispatcher = create_app().router.default
    assert isinstance(dispatcher, Dispatcher)
    told = "".join(page(name) for name in ("surfaces.md", "control-plane.md", "observability.md"))
    missing = [path for path, methods in map(_path_and_methods, dispatcher.routes) if not _is_told(told, path, methods)]
    assert not missing, f"no page tells of {missing}"


def _path_and_methods(route: Any) -> tuple[str, set[str]]:
    path = re.sub(r":\w+\}", "}", route.path).replace("/v1/models/{model}", "/v1/models/{id}")
    return path, set() if isinstance(route, WebSocketRoute) else set(route.methods)


def _is_told(text: str, path: str, methods: set[str]) -> bool:
    """Whether the page has the path in code, with each of its methods in front of it."""
    place = re.escape(path) + r"[`?]"
    return all(re.search(f"`{method} {place}", text) for method in methods) if methods else bool(re.search(place, text))


def test_every_command_and_every_option_is_told() -> None:
    told = page("cli.md")
    for command in _commands():
        assert f"`innkeeper {command}" in told, command
        for option in _options_of(command):
            assert re.search(rf"`{option}[ `]", told), f"{command} {option}"


def _commands() -> list[str]:
    mount_credits()
    mount_models()
    mount_runs()
    group: Any = typer.main.get_command(cli)
    names = []
    for name, command in group.commands.items():
        names += [f"{name} {inner}" for inner in command.commands] if hasattr(command, "commands") else [name]
    return names


def _options_of(command: str) -> list[str]:
    found: Any = typer.main.get_command(cli)
    for word in command.split():
        found = found.commands[word]
    return [option for parameter in found.params for option in parameter.opts if option.startswith("-")]


def test_every_key_of_a_declaration_is_told() -> None:
    for key in Declaration.model_fields:
        assert f"`{key}`" in page("agents.md")


def test_every_reserved_name_and_every_parameter_of_functions_is_told() -> None:
    for name in (*KEPT_NAMES, *PARAMETERS):
        assert f"`{name}`" in page("agents.md")


def test_every_public_name_is_told() -> None:
    import innkeeper
    import innkeeper.testing

    told = page("python-api.md")
    for name in (*innkeeper.__all__, *innkeeper.testing.__all__):
        assert name.startswith("__") or re.search(rf"\b{name}\b", told), name


def test_the_test_behind_each_guarantee_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page("guarantees.md"))
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test
