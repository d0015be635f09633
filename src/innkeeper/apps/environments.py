"""`environ`: the environment of the request that asks, in the place of `os.environ`; see `core.environments`."""

from __future__ import annotations

import os

from innkeeper.core.context import get_context
from innkeeper.core.environments import Belongings, Environment


def _of_the_request() -> Belongings | None:
    context = get_context()
    return None if context is None else context.environment


environ = Environment(os.environ, _of_the_request)
