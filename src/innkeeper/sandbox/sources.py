"""Sources: what every sandbox asks of source code before anything executes it, and the signatures of its functions.

Python's own parser can be made to take minutes and gigabytes by a few kilobytes, so the text is bounded first, and the
sandboxes parse in child processes all the same.
Invariant: whatever the text, the answer is a value or SourceRejected, with line and column from 1, in characters.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Collection
from dataclasses import dataclass

from innkeeper.core.errors import SourceRejected
from innkeeper.core.sources import MAX_SOURCE

_Function = ast.FunctionDef | ast.AsyncFunctionDef

_MAX_NESTING = 100  # brackets in brackets
_MAX_CHAIN = 500  # operators, dots and brackets in a row, each of which nests in the one before
_MAX_FIELDS = 1000  # of one f-string; the time to parse them grows with their square

_TOKEN = re.compile(
    r"""\#[^\n]* | \\\n
      | (?P<string>(?:(?<!\w)[A-Za-z]{1,2})?
          (?:'''(?:\\.|.)*?(?:'''|\Z) | \"\"\"(?:\\.|.)*?(?:\"\"\"|\Z)
          | '(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z) | "(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)))
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<separator>[,;])
      | (?P<newline>\n)
      | (?P<chained>[.+\-*/%@&|^~] | (?<!\w)(?:not|lambda|if|await)(?!\w))
      | \w+ | [^\S\n]+ | .""",
    re.VERBOSE | re.DOTALL,
)

_quiet = threading.Lock()  # of `warnings`, whose filters belong to the process


@dataclass(frozen=True, slots=True)
class Parameter:
    """One that can be given by name; `line` and `column` are where it stands."""

    name: str
    has_default: bool
    line: int
    column: int
    is_keyword_only: bool = False
    is_positional_only: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function can be called; `line` and `column` are where it is defined."""

    function: str
    parameters: tuple[Parameter, ...]
    is_async: bool
    takes_any_keywords: bool
    line: int
    column: int

    @property
    def required(self) -> list[str]:
        return [one.name for one in self.parameters if not one.has_default]


def check_tool(source: str, function: str | None, names: Collection[str]) -> Signature:
    """That a tool's function takes each declared parameter by keyword, and needs no other."""
    found = signature(source, function)
    for one in found.parameters:
        if one.is_positional_only and (one.name in names or not one.has_default):
            reason = f"The parameter {one.name!r} of {found.function!r} cannot be passed by keyword."
            raise SourceRejected(reason, line=one.line, column=one.column)
        if not one.has_default and one.name not in names:
            reason = f"The parameter {one.name!r} of {found.function!r} is not declared in the tool's parameters."
            raise SourceRejected(f"{reason} Declare it, or give it a default.", line=one.line, column=one.column)
    missing = sorted(set(names) - {one.name for one in found.parameters})
    if missing and not found.takes_any_keywords:
        reason = f"The function {found.function!r} has no parameter {missing[0]!r}, which the tool declares."
        raise SourceRejected(reason, line=found.line, column=found.column)
    return found


def check_handler(source: str, function: str | None) -> Signature:
    """That a handler's function has exactly one positional parameter, and needs no other."""
    found = signature(source, function)
    positional = [one for one in found.parameters if not one.is_keyword_only]
    needed = [one for one in found.parameters if one.is_keyword_only and not one.has_default]
    if len(positional) != 1 or needed:
        reason = f"The function {found.function!r} must have exactly one positional parameter: what it handles."
        raise SourceRejected(reason, line=found.line, column=found.column)
    return found


def only_function(source: str) -> str:
    """The function to call where none was named: the last at the top level, as what it uses stands before it."""
    return _chosen(parse(source), None).name


def signature(source: str, function: str | None = None) -> Signature:
    """Of the function of that name at the top level; the last one, where it is defined twice or no name is given."""
    lines = _lines(source)
    found = _chosen(parse(source), function)
    line, column = _place(found, lines)
    return Signature(
        function=found.name,
        parameters=tuple(_parameters(found.args, lines)),
        is_async=isinstance(found, ast.AsyncFunctionDef),
        takes_any_keywords=found.args.kwarg is not None,
        line=line,
        column=column,
    )


def parse(source: str) -> ast.Module:
    """Raises SourceRejected for whatever is not Python, or too much of it."""
    _bound(source)
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise SourceRejected(
            _sentence(error.msg), line=max(error.lineno or 1, 1), column=max(error.offset or 1, 1)
        ) from None
    except (ValueError, OverflowError) as error:
        raise SourceRejected(_sentence(str(error))) from None
    except (MemoryError, RecursionError):
        raise SourceRejected("The source is nested too deeply.") from None


def _bound(source: str) -> None:
    if len(source) > MAX_SOURCE:
        raise SourceRejected(f"The source is longer than {MAX_SOURCE} characters.")
    if unprintable := re.search("[\0\ud800-\udfff]", source):
        what = "a null character" if unprintable[0] == "\0" else "half a surrogate pair"
        raise _rejected_at(source, unprintable.start(), f"The source contains {what}.")
    if too_deep := _too_deep("\n".join(_lines(source))):
        raise too_deep


def _too_deep(text: str) -> SourceRejected | None:
    chains = [0]  # for the statement and each open bracket: what has been met in a row
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "string":
                if token[0].count("{") > _MAX_FIELDS and "f" in token[0][:2].lower():
                    return _rejected_at(text, token.start(), f"An f-string has more than {_MAX_FIELDS} fields.")
            case "open":
                chains[-1] += 1
                chains.append(0)
            case "close" if len(chains) > 1:
                chains.pop()
            case "chained":
                chains[-1] += 1
            case "separator":
                chains[-1] = 0
            case "newline" if len(chains) == 1:
                chains[-1] = 0
        if len(chains) > _MAX_NESTING or chains[-1] > _MAX_CHAIN:
            return _rejected_at(text, token.start(), "The source is nested too deeply.")
    return None


def _rejected_at(source: str, index: int, reason: str) -> SourceRejected:
    before = source[:index]
    return SourceRejected(reason, line=before.count("\n") + 1, column=index - (before.rfind("\n") + 1) + 1)


def _chosen(tree: ast.Module, name: str | None) -> _Function:
    functions = [node for node in tree.body if isinstance(node, _Function)]
    for function in reversed(functions):
        if name is None or function.name == name:
            return function
    if name is None:
        raise SourceRejected("The source defines no function at its top level.")
    others = ", ".join(repr(one.name) for one in functions[:5])
    there = f" Its functions: {others}." if others else ""
    raise SourceRejected(f"The source defines no function {name[:100]!r} at its top level.{there}")


def _parameters(arguments: ast.arguments, lines: list[str]) -> list[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    found = [
        Parameter(
            one.arg, number >= first_default, *_place(one, lines), is_positional_only=one in arguments.posonlyargs
        )
        for number, one in enumerate(positional)
    ]
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(Parameter(one.arg, default is not None, *_place(one, lines), is_keyword_only=True))
    return found


def _place(node: _Function | ast.arg, lines: list[str]) -> tuple[int, int]:
    """The parser counts columns in bytes, people in characters."""
    before = lines[node.lineno - 1].encode()[: node.col_offset]
    return node.lineno, len(before.decode(errors="replace")) + 1


def _lines(source: str) -> list[str]:
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _sentence(text: str) -> str:
    text = text.removesuffix(" (<unknown>)").strip()[:500]
    return f"{text[:1].upper()}{text[1:]}." if text else "This is not Python."
