"""The ASGI string: `uvicorn innkeeper.main:app` serves what `INNKEEPER_TARGETS` names.

Without that variable it serves the agents that are registered before this module is imported, or later.
`python -m innkeeper.main TARGET` is `innkeeper serve TARGET`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any


def make_app() -> Any:
    """The app of the targets in the settings, or else of the registered agents.

    Raises: SetupError.
    """
    from innkeeper.apps.applications import create_app
    from innkeeper.apps.loading import load_app
    from innkeeper.apps.targets import locate
    from innkeeper.config import load_settings

    settings = load_settings()
    for doubt in settings.doubts:
        logging.getLogger("innkeeper").warning("%s", doubt)
    targets = settings.targets
    return load_app(locate(targets, Path.cwd()), Path.cwd()) if targets else create_app()


if __name__ == "__main__":
    from innkeeper.cli.main import main

    main(["serve", *sys.argv[1:]])
else:
    app = make_app()
