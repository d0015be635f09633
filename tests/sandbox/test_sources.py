"""Signatures of functions in source code, and texts that a parser would choke on."""

from __future__ import annotations

import ast
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.core.errors import SourceRejected
from innkeeper.core.sources import MAX_SOURCE
from innkeeper.sandbox import sources
from tests.sandbox.hostile import UNPARSABLE

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""As the machine may be busy."""


def test_a_signature_tells_how_a_function_can_be_called() -> None:
    source = "import os\n\n@os.decorate\nasync def f(a, /, b, c=1, *more, d, e=2, **others): ...\n"
    found = sources.signature(source, "f")
    assert [(one.name, one.has_default) for one in found.parameters] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("d", False),
        ("e", True),
    ]
    assert [one.name for one in found.parameters if one.is_positional_only] == ["a"]
    assert [one.name for one in found.parameters if one.is_keyword_only] == ["d", "e"]
    assert found.required == ["a", "b", "d"]
    assert (found.is_async, found.takes_any_keywords, found.line, found.column) == (True, True, 4, 1)


def test_of_two_functions_of_one_name_the_last_is_meant() -> None:
    assert not sources.signature("async def f(a): ...\ndef f(): ...\n", "f").parameters


def test_the_only_function_is_the_last_at_the_top_level() -> None:
    assert sources.only_function("def a():\n    def inner(): ...\nasync def b(): ...\nc = lambda: 1\n") == "b"


def test_lines_may_end_as_on_any_machine() -> None:
    for end in ("\n", "\r\n", "\r"):
        source = f"x = 1{end}{end}def f(ü, b): ...{end}"
        with pytest.raises(SourceRejected) as refused:
            sources.check_tool(source, "f", ["ü"])
        assert (refused.value.details["line"], refused.value.details["column"]) == (3, 10)


@pytest.mark.parametrize("name", UNPARSABLE)
def test_what_is_too_much_is_refused_before_a_parser_sees_it(name: str) -> None:
    began = time.process_time()
    with pytest.raises(SourceRejected):
        sources.only_function(UNPARSABLE[name])
    assert time.process_time() - began < 1


def test_doubtful_escapes_warn_nobody() -> None:
    assert sources.only_function(r"def f(): return '\d'") == "f"


def test_all_of_the_standard_library_that_is_short_enough_parses() -> None:
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if len(text) <= MAX_SOURCE:
            sources.parse(text)


_PIECES = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    "'''",
    "\\",
    "\n",
    "\r",
    "\t",
    " ",
    "f'",
    "#",
    ":",
    ",",
    ";",
    "=",
    "def f(a):",
]
_PIECES += [
    "\0",
    "\x0c",
    "\ud800",
    "é",
    "1",
    "0x",
    "1e",
    "a",
    "lambda",
    "not ",
    "await ",
    "if ",
    "else ",
    "yield ",
    "*",
    "-",
    ".",
]


@UNHURRIED
@given(st.one_of(st.text(), st.lists(st.sampled_from(_PIECES), max_size=200).map("".join)))
def test_whatever_the_text_the_answer_is_a_name_or_a_refusal_with_a_place(text: str) -> None:
    try:
        assert sources.only_function(text)
    except SourceRejected as refused:
        line, column = refused.details["line"], refused.details["column"]
        assert isinstance(line, int)
        assert isinstance(column, int)
        assert min(line, column) >= 1


@UNHURRIED
@given(st.text(max_size=50))
def test_whatever_the_name_it_is_found_or_refused(name: str) -> None:
    with suppress(SourceRejected):
        assert sources.signature("def f(): ...", name).function == "f"
