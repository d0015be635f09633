"""Redactions: what a log keeps of a text. One line, without what opens doors, and not longer than it may be.

It is a net below those who write logs, not a licence to log secrets: it knows the common shapes and no others.
"""

from __future__ import annotations

import re

LONGEST = 4096
"""Characters of a message that are kept."""

_READ = 2 * LONGEST
"""Characters that are looked at: the rest could not be kept."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Every repetition is bounded, so that no text can make the search for secrets long.
_SECRETS = (
    # Authorization: Bearer …, 'x-api-key': '…', password=…
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?api[-_]?(?:key|token)|x-session-token"
            r"|session_token|access_token|token|secret|password|passwd)"
            r"(['\"]?\s{0,4}[:=]\s{0,4}['\"]?)(?:(?:bearer|basic|digest|token)\s{1,4})?[^\s'\",;&}\])]{1,2048}"
        ),
        r"\1\2***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s{1,4}[a-z0-9._~+/=-]{8,2048}"), r"\1 ***"),
    (re.compile(r"\b(ik[a-z0-9]{16})\.[A-Za-z0-9_-]{1,512}"), r"\1.***"),
    (re.compile(r"\b(st_|sk-|whsec_)[A-Za-z0-9_/+=-]{8,512}"), r"\1***"),
    # postgresql://user:password@host
    (re.compile(r"(://[^/\s:@]{0,256}):[^\s@]{1,256}@"), r"\1:***@"),
)


def kept(text: str) -> str:
    """What of a text a log keeps."""
    return one_line(without_secrets(_beginning(text)))


def _beginning(text: str) -> str:
    """So much of it that what is cut off cannot be half of a secret that would be kept."""
    if len(text) <= _READ:
        return text
    return text[:_READ].rpartition(" ")[0] or text[:LONGEST]


def without_secrets(text: str) -> str:
    """The text with `***` in place of what looks like a credential."""
    for pattern, told in _SECRETS:
        text = pattern.sub(told, text)
    return text


def one_line(text: str) -> str:
    """The text with control characters escaped, so that it cannot forge a line, and its end cut off if it is long."""
    line = _CONTROL.sub(_escaped, text[: LONGEST + 1])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
