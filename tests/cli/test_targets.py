"""What a target may be, and what a user is told of one that cannot be served."""

from __future__ import annotations

import pytest

from tests.cli.conftest import ECHO, Folder

DECLARED = "model: test\ninstructions: Be brief.\n"


def test_a_file_serves_what_it_registers_and_nothing_else(folder: Folder) -> None:
    folder.write("mine.py", ECHO + '\nfrom innkeeper import Agent\nother = Agent(name="other", model="test")\n')
    assert folder.names("mine.py") == ["echo"]


def test_a_file_without_registrations_serves_the_agents_in_its_variables(folder: Folder) -> None:
    folder.write(
        "mine.py",
        """
from innkeeper import Agent
from threading import Thread

class Parrot:
    name = "an unusable name"
    def run(self, messages):
        return "squawk"

def tool(): ...

first = Agent(name="first", model="test", tools=[tool])
again = first
parrot = Parrot()
thread = Thread()
_hidden = Agent(name="hidden", model="test")
""",
    )
    assert folder.names("mine.py") == ["first", "parrot"]


def test_a_file_with_an_app_serves_that_app(folder: Folder) -> None:
    folder.write(
        "mine.py",
        """
from innkeeper import Agent, Server
extra = Agent(name="extra", model="test")
served = Server(agents=[Agent(name="served", model="test")])
""",
    )
    assert folder.names("mine.py") == ["served"]
    assert folder.names("mine:served") == ["served"]


def test_a_file_with_two_apps_must_be_told_which(folder: Folder) -> None:
    folder.write("mine.py", "from innkeeper import Server\none = Server()\ntwo = Server()\n")
    assert folder.error("agents", "mine.py") == "mine.py has several apps: one, two. Say which one: mine.py:one."


def test_an_app_that_would_not_serve_what_is_registered_is_refused(folder: Folder) -> None:
    folder.write("mine.py", ECHO + "\nfrom fastapi import FastAPI\napp = FastAPI()\n")
    assert "call innkeeper.attach(app)" in folder.error("serve", "mine.py")


def test_an_attribute_may_be_a_function_an_agent_a_list_or_a_dict(folder: Folder) -> None:
    folder.write(
        "mine.py",
        ECHO
        + """
from innkeeper import Agent
agent = Agent(name="solo", model="test")
several = [echo, agent]
named = {"left": echo, "right": agent}
""",
    )
    assert folder.names("mine:echo") == ["echo"]
    assert folder.names("mine.py:agent") == ["solo"]
    assert folder.names("mine:several") == ["echo", "solo"]
    assert folder.names("mine:named") == ["left", "right"]
    assert folder.names("mine:agent", "mine.py") == ["solo", "echo"]


def test_a_name_is_looked_for_in_the_agents_folder(folder: Folder) -> None:
    folder.write("agents/brief.yaml", DECLARED)
    folder.write("agents/python.py", ECHO)
    assert folder.names("brief") == ["brief"]
    assert folder.names("python", "brief") == ["echo", "brief"]


def test_without_a_target_every_declared_agent_is_served(folder: Folder) -> None:
    folder.write("agents/one.yaml", DECLARED)
    folder.write("agents/two.yml", DECLARED)
    folder.write("agents/tools.py", "")
    assert folder.names() == ["one", "two"]
    assert folder.names("agents") == ["one", "two"]


def test_targets_may_come_from_the_environment(folder: Folder) -> None:
    folder.write("mine.py", ECHO)
    assert folder.names(env={"INNKEEPER_TARGETS": "mine.py"}) == ["echo"]


def test_a_declared_agent_has_the_tools_that_it_names(folder: Folder) -> None:
    folder.write("agents/beside.py", "def one() -> str:\n    return ''\n")
    folder.write("further.py", "def two() -> str:\n    return ''\n")
    folder.write("agents/brief.yaml", DECLARED + "description: Brief.\ntools: ['beside:one', 'further:two']\n")
    assert "brief (default)  test   one, two  Brief." in folder.run("agents").output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: test", "unknown key 'modle'. Did you mean 'model'?"),
        ("instructions: Hello", "the key 'model' is missing, such as model: local:smollm2."),
        ("model: test\ntemperature: warm", "temperature: Input should be a valid number"),
        ("model: test\ntools: [beside]", "the tool 'beside' is not of the form module:function."),
        ("model: test\ntools: ['beside:noe']", "the tool 'beside:noe' is no function of beside. Did you mean 'none'?"),
        (
            "model: test\ntools: ['nowhere:one']",
            "the tool 'nowhere:one' cannot be loaded. There is no module 'nowhere'",
        ),
        ("model: [", "is not valid YAML"),
        ("", "declares no agent: it must say at least model: …"),
        ("model: test\nname: no name", "'no name' is not a usable agent name"),
    ],
)
def test_a_mistake_in_a_declaration_is_told_with_its_place(folder: Folder, text: str, said: str) -> None:
    folder.write("agents/beside.py", "def none(): ...\n")
    path = folder.write("agents/brief.yaml", text)
    message = folder.error("serve", "brief")
    assert message.startswith(str(path)) and said in message


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("miin.py", "There is no file miin.py: looked for it in {folder}. Did you mean 'mine.py'?"),
        ("nowhere/mine.py", "There is no file nowhere/mine.py: there is not even a folder {folder}/nowhere."),
        (
            "brif",
            "There is no agent 'brif': looked for agents/brif.yaml, agents/brif.yml, agents/brif.py, brif.py,"
            " brif.yaml and brif.yml in {folder}. Did you mean 'brief'?",
        ),
        ("mine:ecko", "mine has no 'ecko'. Did you mean 'echo'?"),
        ("mine.py:", "'mine.py:' does not name an attribute: write module:attribute or file.py:attribute."),
        (
            "nine:echo",
            "There is no module 'nine': it is not installed, and {folder} has no nine.py. Did you mean 'mine'?",
        ),
        ("notes.txt", "notes.txt is neither a Python file (.py) nor an agent's declaration (.yaml)."),
        ("empty", "The folder {folder}/empty declares no agent: it has no *.yaml. Name a file in it."),
        (
            "plain.py",
            "plain.py has nothing to serve: no app, no registered agent, no agent in a variable. Register the"
            ' function: register_agent("answer", answer), or serve plain.py:answer.',
        ),
        ("mine:number", "mine:number: The agent 'number' is of type int, which cannot be served."),
    ],
)
def test_a_wrong_target_is_told_with_what_was_looked_for_and_where(folder: Folder, target: str, said: str) -> None:
    folder.write("mine.py", ECHO + "number = 1\n")
    folder.write("plain.py", "def answer(messages):\n    return ''\n")
    folder.write("agents/brief.yaml", DECLARED)
    folder.write("notes.txt", "")
    folder.write("empty/readme.md", "")
    assert folder.error("serve", target).startswith(said.format(folder=folder.path))


def test_nothing_to_serve_is_told_with_what_could_be(folder: Folder) -> None:
    message = folder.error("serve")
    assert message.startswith(
        f"There is nothing to serve: {folder.path} has no agents/*.yaml, and no target was given."
    )


def test_an_app_stands_alone(folder: Folder) -> None:
    folder.write("app.py", "from innkeeper import Server\napp = Server()\n")
    folder.write("mine.py", ECHO)
    assert "app.py is an app of its own, and an app is served alone" in folder.error("serve", "mine.py", "app.py")


def test_two_agents_of_one_name_are_told_with_both_places(folder: Folder) -> None:
    folder.write("mine.py", "from innkeeper import Agent\nagent = Agent(name='brief', model='test')\n")
    folder.write("agents/brief.yaml", DECLARED)
    message = folder.error("serve", "brief", "mine.py")
    assert message == "Two agents are named 'brief'. Give each agent a name of its own. Here: brief and mine.py."


def test_a_reserved_name_is_told_with_its_clash(folder: Folder) -> None:
    folder.write("mine.py", ECHO.replace('"echo"', '"sessions"'))
    message = folder.error("serve", "mine.py")
    assert message.startswith("mine.py, line 7: 'sessions' cannot name an agent, because the server has routes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n    pass\n", "mine.py, line 1: invalid syntax."),
        ("x = 1\nmissing()\n", "mine.py, line 2: NameError: name 'missing' is not defined"),
        ("import no_such_package\n", "mine.py, line 1: there is no module 'no_such_package'. Install what has it."),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: the file ended the program (3)."),
    ],
)
def test_a_file_that_fails_is_told_with_the_line(folder: Folder, text: str, said: str) -> None:
    folder.write("mine.py", text)
    assert folder.error("serve", "mine.py") == said


def test_debug_shows_the_traceback_of_a_file_that_fails(folder: Folder) -> None:
    folder.write("mine.py", "missing()\n")
    result = folder.run("serve", "mine.py", "--debug")
    assert result.code == 1
    assert "Traceback" in result.error and result.error.rstrip().endswith("name 'missing' is not defined")


SDK = """
from agents import Agent, function_tool

@function_tool
def nothing() -> str:
    return ""

helper = Agent(name="helper", instructions="Help.", tools=[nothing])
"""


def test_a_file_called_agents_uses_the_sdk_that_is_called_agents_too(folder: Folder) -> None:
    folder.write("agents.py", SDK)
    assert folder.names("agents.py") == ["helper"]
    assert folder.names("agents") == ["helper"]
    assert folder.names("agents:helper") == ["helper"]


def test_a_folder_called_agents_does_not_hide_the_sdk(folder: Folder) -> None:
    folder.write("agents/mine.py", SDK + "\nfrom agents.words import GREETING\n")
    folder.write("agents/words.py", "GREETING = 'hello'\n")
    folder.write("agents/brief.yaml", DECLARED)
    assert folder.names("agents/mine.py", "brief") == ["helper", "brief"]
    folder.write("agents/__init__.py", "raise RuntimeError('this is not the SDK')\n")
    assert folder.names("agents/mine.py") == ["helper"]
    assert folder.names("mine") == ["helper"]


def test_a_file_named_as_a_package_does_not_stand_in_for_it(folder: Folder) -> None:
    folder.write("httpx2.py", ECHO + "\nimport httpx2\nassert httpx2.Client\n")
    assert folder.names("httpx2.py") == ["echo"]


def test_modules_beside_a_file_can_be_imported(folder: Folder) -> None:
    folder.write("there/words.py", "GREETING = 'hello'\n")
    folder.write("there/mine.py", "from words import GREETING\n" + ECHO)
    assert folder.names("there/mine.py") == ["echo"]
