"""Names: what an agent is called as a tool. Clients hand these to models, which take letters, digits, _ and -."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_MOST = 64
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


def tool_names(agents: Iterable[str]) -> dict[str, str]:
    """The agents by the names of their tools, in their order.

    An agent keeps its name if that can be a tool's. One that cannot, or that would get another's, ends in a digest of
    its own, so that its tool is called the same whichever other agents there are beside those two.
    """
    names = list(agents)
    taken = {name for name in names if _plain(name) == name}
    wanted = [_plain(name) for name in names]
    found: dict[str, str] = {}
    for name, plain in zip(names, wanted, strict=True):
        is_alone = plain not in taken and wanted.count(plain) == 1
        found[plain if name in taken or is_alone else _digested(name)] = name
    return found


def _plain(name: str) -> str:
    return name if len(name) <= _MOST and not _FOREIGN.search(name) else _FOREIGN.sub("_", name)[:_MOST]


def _digested(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{_plain(name)[: _MOST - 9]}_{digest}"
