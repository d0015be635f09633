"""Whatever clients send, in whatever order, an agent is given the conversation that a simple model expects.

The model keeps every turn as a plain list and knows nothing of positions, branches or hashes.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.outcomes import Accepted
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import (
    accept,
    accepted_by,
    assistant,
    end,
    fence,
    given,
    session_called,
    system,
    user,
)

TEXTS = st.sampled_from(["a", "b", "c", "", "ab", "\0", "é"])
INSTRUCTIONS = st.lists(st.sampled_from(["Be brief.", "Be long."]), max_size=2).map(
    lambda texts: [system(text) for text in texts]
)


class Conversations(RuleBasedStateMachine):
    """One session and a client that may send any part of what it remembers, and things that never were."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.store = SqliteStore(Path(self.folder.name) / "innkeeper.db")
        self.loop.run_until_complete(self.store.open())
        self.stored: list[Message] = []
        self.instructions: list[Message] = []
        self.visible: list[Message] = []
        self.leaves: list[tuple[list[Message], list[Message]]] = []
        self.turns = 0

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        self.folder.cleanup()

    def _answers(self, text: str, uses_tool: bool) -> tuple[tuple[Message, ...], Message]:
        """What an agent adds, and how clients see it; numbered, so that no two answers are the same."""
        self.turns += 1
        said = assistant(f"{text}{self.turns}")
        if not uses_tool:
            return (said,), said
        call = Message("assistant", "…", (ToolUse(f"c{self.turns}", "look", "{}"),), is_internal=True)
        result = Message("tool", text, tool_call_id=f"c{self.turns}", is_internal=True)
        return (call, result, said), assistant(f"…{said.text}")

    def _take(
        self,
        sent: list[Message],
        expected: list[Message],
        seen: list[Message],
        instructions: list[Message],
        answer: tuple[str, bool],
        history: str = "auto",
    ) -> None:
        """Send a turn; the agent must be given `expected`, and clients then remember `seen` and the answer."""
        change = accept([*instructions, *sent], "s", history=history)  # type: ignore[arg-type]
        accepted = self.loop.run_until_complete(accepted_by(self.store, change))
        assert accepted.lineage is not None
        self.instructions = instructions or self.instructions
        was_given = self.loop.run_until_complete(given(self.store, accepted.lineage))
        spoken = [message for message in was_given if not message.is_instruction]
        assert spoken == expected
        if instructions:
            assert [message for message in was_given if message.is_instruction] == instructions
        messages, visible = self._answers(*answer)
        self.loop.run_until_complete(self._end(accepted, messages, visible))
        self.stored = [*expected, *messages]
        self.visible = [*seen, visible]
        self.leaves.append((self.visible, self.stored))

    async def _end(self, accepted: Accepted, messages: tuple[Message, ...], visible: Message) -> None:
        await self.store.journal.commit((end(accepted, messages, visible=visible),), fence(accepted))

    @rule(text=TEXTS, instructions=INSTRUCTIONS, answer=st.tuples(TEXTS, st.booleans()))
    def only_the_new_turn(self, text: str, instructions: list[Message], answer: tuple[str, bool]) -> None:
        new = user(text)
        self._take([new], [*self.stored, new], [*self.visible, new], instructions, answer)

    @rule(text=TEXTS, instructions=INSTRUCTIONS, answer=st.tuples(TEXTS, st.booleans()))
    def the_whole_transcript(self, text: str, instructions: list[Message], answer: tuple[str, bool]) -> None:
        new = user(text)
        self._take([*self.visible, new], [*self.stored, new], [*self.visible, new], instructions, answer)

    @rule(text=TEXTS, data=st.data(), instructions=INSTRUCTIONS, answer=st.tuples(TEXTS, st.booleans()))
    def back_to_an_earlier_answer(
        self, text: str, data: st.DataObject, instructions: list[Message], answer: tuple[str, bool]
    ) -> None:
        if not self.leaves:
            return
        visible, stored = data.draw(st.sampled_from(self.leaves))
        new = user(text)
        self._take([*visible, new], [*stored, new], [*visible, new], instructions, answer)

    @rule(text=TEXTS, answer=st.tuples(TEXTS, st.booleans()))
    def a_transcript_from_elsewhere(self, text: str, answer: tuple[str, bool]) -> None:
        self.turns += 1
        sent = [user("elsewhere"), assistant(f"there {self.turns}"), user(text)]
        self._take(sent, sent, sent, [], answer)

    @rule(text=TEXTS, answer=st.tuples(TEXTS, st.booleans()))
    def the_transcript_and_a_turn_from_elsewhere(self, text: str, answer: tuple[str, bool]) -> None:
        self.turns += 1
        more = [user("elsewhere"), assistant(f"there {self.turns}"), user(text)]
        self._take([*self.visible, *more], [*self.stored, *more], [*self.visible, *more], [], answer)

    @rule(text=TEXTS, answer=st.tuples(TEXTS, st.booleans()))
    def replace(self, text: str, answer: tuple[str, bool]) -> None:
        sent = [*self.visible[-2:], user(text)]
        self._take(sent, sent, sent, [], answer, "replace")

    @rule(text=TEXTS, answer=st.tuples(TEXTS, st.booleans()))
    def append(self, text: str, answer: tuple[str, bool]) -> None:
        if not self.stored:
            return
        new = user(text)
        sent = [user("ignored"), assistant("ignored too"), new]
        self._take(sent, [*self.stored, new], [*self.visible, new], [], answer, "append")

    @invariant()
    def the_session_shows_what_was_stored(self) -> None:
        if not self.stored:
            return
        session = self.loop.run_until_complete(session_called(self.store, "s"))
        shown = self.loop.run_until_complete(self.store.sessions.messages(session))
        assert [stored.message for stored in shown if not stored.message.is_instruction] == self.stored
        assert session.message_count == len(shown)
        assert [stored.position for stored in shown] == sorted({stored.position for stored in shown})


TestConversations = Conversations.TestCase
TestConversations.settings = settings(
    max_examples=40, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
