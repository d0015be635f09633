"""The dummy keeps the contract of runtimes, and answers always alike."""

from __future__ import annotations

from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.runtimes.dummy import DummyRuntime
from innkeeper.testing.runtimes import new_context


async def test_it_says_in_a_few_pieces_what_it_was_asked() -> None:
    runtime = DummyRuntime()
    for prompt in ("Hello, world!", "ü\n🦊", "x" * 100_000):
        turn = Turn((Message("user", "before"), Message("assistant", "…"), Message("user", prompt)))
        pieces = [piece async for piece in runtime.run(turn, new_context())]
        assert "".join(pieces) == f"Dummy response to: {prompt}"
        assert len(pieces) > 1


def test_it_has_no_model_and_takes_none() -> None:
    told = DummyRuntime().describe()
    assert (told.name, told.model, told.has_model, told.accepts_models) == ("DummyEngine", None, False, False)
