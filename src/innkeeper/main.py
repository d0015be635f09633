"""The ASGI string: `uvicorn innkeeper.main:app` serves the agents that `INNKEEPER_TARGETS` names.

Without that variable it serves what has been registered before this module was imported.
"""

from __future__ import annotations

from innkeeper.apps.applications import create_app

app = create_app()
