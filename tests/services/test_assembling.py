"""What a run's events amount to, where it was cut off and begun anew."""

from __future__ import annotations

from innkeeper.core.events import MessageInjected, RunResumed, TextDelta, UsageReported
from innkeeper.core.messages import Message
from innkeeper.core.usage import Usage
from innkeeper.services.assembling import Assembler


def _assembled(*events: TextDelta | MessageInjected | RunResumed | UsageReported) -> Assembler:
    assembler = Assembler()
    for event in events:
        assembler.feed(event)
    return assembler


def test_a_run_that_begins_anew_keeps_what_was_injected_and_what_it_cost_and_nothing_else() -> None:
    assembler = _assembled(
        TextDelta("So far"),
        MessageInjected("Be brief.", "inj_1"),
        TextDelta("so good"),
        UsageReported(Usage(3, 4)),
        RunResumed(2, is_restart=True),
    )
    assert assembler.progress() == ((Message("user", "Be brief."),), ())
    assembler.feed(TextDelta("Done."))
    assert assembler.messages() == (Message("user", "Be brief."), Message("assistant", "Done."))
    assert (assembler.output, assembler.usage) == ("Done.", Usage(3, 4))
    assert assembler.by_model == {None: Usage(3, 4)}
