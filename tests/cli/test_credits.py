"""`innkeeper credits` and `innkeeper usage`: on the store itself, without a server and beside one that runs."""

from __future__ import annotations

import re

import httpx2
import pytest

from tests.cli.conftest import Folder
from tests.support.servers import ServerFactory

PRICED = """
from innkeeper import pricing, register_agent
from innkeeper.core.events import UsageReported
from innkeeper.core.usage import Usage

@pricing(credits_per_request=1)
async def priced(messages):
    yield "Hello."
    yield UsageReported(Usage(1_000_000, 100_000, "openai:gpt-4o"))
    yield UsageReported(Usage(5, 5, "homemade"))

register_agent("priced", priced)
"""


def told(folder: Folder, *words: str, env: dict[str, str] | None = None) -> list[list[str]]:
    """The rows that `innkeeper WORDS` prints, without their head."""
    result = folder.run(*words, env=env)
    assert result.code == 0, result.error
    return [re.split(r"\s{2,}", row) for row in result.output.splitlines()[1:]]


def test_balances_are_set_added_to_shown_and_removed(folder: Folder) -> None:
    ((organization, user, *amounts, _),) = told(folder, "credits", "set", "10", "--user", "ann")
    assert (organization, user, amounts) == ("default", "ann", ["10", "10", "0"])
    added = folder.run("credits", "add", "0.000000001", "--user", "ann", "--reason", "a trifle")
    assert (added.code, added.error) == (0, "10.000000001 credits are there now.\n")
    told(folder, "credits", "set", "999999999.999999999", "--org", "acme")
    assert [row[:3] for row in told(folder, "credits", "list")] == [
        ["acme", "(all together)", "999999999.999999999"],
        ["default", "ann", "10.000000001"],
    ]
    assert [row[:3] for row in told(folder, "credits", "show", "--user", "ann")] == [["default", "ann", "10.000000001"]]
    assert folder.run("credits", "remove", "--user", "ann").code == 0
    nothing = folder.run("credits", "show", "--user", "ann")
    assert nothing.error == "Nothing bounds them: there is no balance.\n"
    actions = [row[4] for row in told(folder, "audit", "list")]
    assert actions == ["credits.remove", "credits.set", "credits.add", "credits.set"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("credits", "set", "1e5"), "CREDITS: must be a number such as 12.5"),
        (("credits", "set", "1", "--user", "a\nb"), "--user: must have 1 to 256 printable characters."),
        (("credits", "remove", "--user", "zoe"), "The user 'zoe' of the organization 'default' has no balance."),
        (("usage", "rerate"), "There are no prices: name their file with MODEL_PRICES"),
        (("serve",), "prices.yaml:2: models.a.input must be a number"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(folder: Folder, words: tuple[str, ...], message: str) -> None:
    env = None
    if words == ("serve",):
        folder.write("prices.yaml", "models:\n  a: {input: free, output: 1}\n")
        folder.write("mine.py", PRICED)
        words, env = ("serve", "mine.py", "--port", "0"), {"MODEL_PRICES": "prices.yaml"}
    result = folder.run(*words, env=env)
    assert (result.code, message in result.error, result.output) == (1, True, ""), result.error


def test_past_runs_are_rated_anew_by_the_prices_that_hold_now(innkeeper_server: ServerFactory, folder: Folder) -> None:
    innkeeper_server.write("mine.py", PRICED)
    prices = folder.write("prices.yaml", 'models:\n  "openai:*": {input: 2.5, output: 10}\n')
    env = {"MODEL_PRICES": str(prices)}
    server = innkeeper_server("mine.py", env=env)
    told(folder, "credits", "set", "3", "--org", "local", "--user", "local")
    answers = [
        httpx2.post(f"{server.url}/chat", json={"input": "Hi"}, timeout=20, trust_env=False).status_code
        for _ in range(2)
    ]
    assert answers == [200, 200]
    assert told(folder, "usage", "show") == [
        ["homemade", "2", "10", "10", "-"],
        ["openai:gpt-4o", "2", "2000000", "200000", "7"],
    ]
    prices.write_text('models:\n  "openai:gpt-4o": {input: 3, output: 20}\n')
    rated = [
        ["homemade", "2", "0", "0", "0", "none: left as it is"],
        ["openai:gpt-4o", "2", "2", "7", "10", "yes"],
    ]
    assert told(folder, "usage", "rerate", "--dry-run", env=env) == rated
    assert [row[2:5] for row in told(folder, "usage", "rerate", "--until", "2020-01-01", env=env)] == []
    assert told(folder, "usage", "rerate", "--since", "2020-01-01", env=env) == rated
    assert told(folder, "usage", "show")[1][-1] == "10"
    assert told(folder, "credits", "show", "--org", "local", "--user", "local")[0][2] == "1", "what was charged stays"
    assert [row[4] for row in told(folder, "audit", "list")] == ["usage.rerate", "usage.rerate", "credits.set"]
