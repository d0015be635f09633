"""Which agent answers to a name: registered ones, then those that resolvers know, then what is built in."""

from __future__ import annotations

import pytest

from innkeeper.core.errors import AgentNotFound, NoAgents, NoDefaultAgent
from innkeeper.runtimes.dummy import DummyRuntime
from innkeeper.services.agents import AgentRegistry

BUILT_IN, OTHER = DummyRuntime(), DummyRuntime()


def registry() -> AgentRegistry:
    agents = AgentRegistry()
    agents.build_in("Dummy", BUILT_IN)
    return agents


async def test_what_is_built_in_is_found_by_name_and_counts_for_nothing() -> None:
    agents = registry()
    found = await agents.find("Dummy")
    assert (found.runtime, found.is_builtin, found.is_default) == (BUILT_IN, True, False)
    assert agents.is_empty
    assert (len(agents), list(agents), "Dummy" in agents) == (0, [], False)
    for name in (None, "other"):
        with pytest.raises(NoAgents):
            await agents.find(name)


async def test_what_is_built_in_is_never_the_default() -> None:
    agents = registry()
    agents.register("mine", OTHER, default=False)
    with pytest.raises(NoDefaultAgent):
        await agents.find(None)
    with pytest.raises(AgentNotFound):
        await agents.find("other")


async def test_a_registered_agent_comes_before_what_is_built_in() -> None:
    agents = registry()
    agents.register("Dummy", OTHER)
    found = await agents.find("Dummy")
    assert (found.runtime, found.is_builtin) == (OTHER, False)
    assert list(agents.builtins) == []


async def test_a_resolver_comes_before_what_is_built_in() -> None:
    agents = registry()
    agents.add_resolver(lambda name: {"mine": True} if name == "Dummy" else None, OTHER)
    found = await agents.find("Dummy")
    assert (found.runtime, found.data, found.is_builtin) == (OTHER, {"mine": True}, False)


async def test_what_no_resolver_knows_is_looked_for_in_what_is_built_in() -> None:
    agents = registry()
    agents.add_resolver(lambda name: False, OTHER)
    assert (await agents.find("Dummy")).runtime is BUILT_IN
    assert [agent.name for agent in agents.builtins] == ["Dummy"]
