"""Programs that are declared in YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper import Program
from innkeeper.apps.declarations import read_agent
from innkeeper.core.errors import SetupError


def declared(folder: Path, text: str) -> Program:
    path = folder / "coder.yaml"
    path.write_text(text)
    program = read_agent(path)
    assert isinstance(program, Program)
    return program


def test_a_preset_with_arguments_works_in_a_folder_beside_the_file(tmp_path: Path) -> None:
    program = declared(tmp_path, "program: claude\narguments: [--model, opus]\ncwd: site\nenv_names: [MINE]\n")
    assert program.name == "coder"
    assert program.command[0] == "claude"
    assert program.command[-2:] == ("--model", "opus")
    assert program.folder == tmp_path / "site"
    assert {"MINE", "ANTHROPIC_API_KEY"} <= set(program.env_names)


def test_a_command_is_a_list_of_words(tmp_path: Path) -> None:
    program = declared(tmp_path, "program: [my-agent, --json]\nname: mine\noutput: jsonl\nkept: true\n")
    assert (program.name, program.command, program.output, program.kept) == (
        "mine",
        ("my-agent", "--json"),
        "jsonl",
        True,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("program: my-agent --json", "no preset 'my-agent --json'"),
        ("program: 5", "command is a list of words"),
        ("program: [a]\noutputs: text", "unknown key 'outputs'. Did you mean 'output'"),
        ("program: [a]\nmodel: 5", "model is text"),
        ("program: [a]\narguments: b", "arguments is a list of words"),
        ("program: [a]\nenv: [b]", "env"),
        ("program: [a]\ncwd: [b]", "wrong type"),
        ("program: [a]\nkept: true", "needs end"),
    ],
)
def test_what_cannot_be_is_refused_with_the_file_and_the_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SetupError) as raised:
        declared(tmp_path, text)
    assert reason in str(raised.value)
    assert "coder.yaml" in str(raised.value)
