"""Environments of requests: the variables that `X-Env-NAME` headers set for the run that a request starts.

Only names that the operator lists (`ENV_HEADERS`) may be set so, and each is spelled as it is there. Any other such
header is refused: whoever sends one would be misled by an answer that was made without it. A value is taken as it is
sent, and is never shown or stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.requests import HTTPConnection

from innkeeper.core.context import RunContext
from innkeeper.core.errors import Forbidden, Invalid
from innkeeper.http.deps import House

_PREFIX = b"x-env-"
_MAX_VALUE = 4096
_MAX_SHOWN = 100


def context_for(house: House, request: HTTPConnection, *, in_background: bool = False) -> RunContext:
    """The context of a request that starts a run, with the variables that its headers set.

    Raises: Forbidden for a variable that requests may not set; Invalid for a value that cannot be one.
    """
    context: RunContext = house.new_context(request)
    if in_background:
        refuse_variables(request, "a run in the background")
    if sent := _sent(request):
        context.environment.changes.update(overrides(sent, house.env_headers))
    return context


def refuse_variables(request: HTTPConnection, what: str) -> None:
    """Raises: Invalid where headers set variables for what may outlive its request, such as "a command"."""
    for header, _ in _sent(request):
        shown = _shown(header)
        raise Invalid(f"{shown} cannot be kept for {what}, which may outlive its request.", param=shown)


def _sent(request: HTTPConnection) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in request.scope["headers"] if name.startswith(_PREFIX)]


def overrides(sent: Iterable[tuple[bytes, bytes]], allowed: Mapping[str, str]) -> dict[str, str]:
    """The variables that these headers set; `allowed` are the names that may be set, by their capitals.

    Raises: Forbidden, Invalid.
    """
    found: dict[str, str] = {}
    for header, value in sent:
        shown = _shown(header)
        name = allowed.get(header[len(_PREFIX) :].decode("latin-1").replace("-", "_").upper())
        if name is None:
            raise Forbidden(
                f"Requests may not set {shown}; ENV_HEADERS lists the variables that they may.", param=shown
            )
        if found.setdefault(name, text := _text(value, shown)) != text:
            raise Invalid(f"{shown} is sent twice, with different values; send one.", param=shown)
    return found


def _text(value: bytes, shown: str) -> str:
    """Raises: Invalid."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if len(value) > _MAX_VALUE or not text.isprintable():
        raise Invalid(f"The value of {shown} must be at most {_MAX_VALUE} bytes of printable text.", param=shown)
    return text


def _shown(header: bytes) -> str:
    """As a client would write it."""
    return header[:_MAX_SHOWN].decode("latin-1").title()
