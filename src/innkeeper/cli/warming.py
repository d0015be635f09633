"""Warming: local models are fetched and loaded as soon as the server answers, with their progress in view."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from innkeeper.cli.models import shown_progress
from innkeeper.config import Settings
from innkeeper.core.errors import InnkeeperError
from innkeeper.runtimes import local
from innkeeper.wiring import runtime_settings

_logger = logging.getLogger("innkeeper")


def warm(models: Sequence[str], settings: Settings) -> None:
    """Begin with the first, in the background; what cannot be had is logged, and told again to whoever asks for it."""
    threading.Thread(target=_warm_all, args=(models, settings), name="innkeeper-warming", daemon=True).start()


def _warm_all(models: Sequence[str], settings: Settings) -> None:
    for model in models:
        try:
            with shown_progress(model.removeprefix(local.PREFIX)) as progress:
                local.prepare(model, runtime_settings(settings), progress).result()
        except InnkeeperError as error:
            _logger.warning("%s cannot be used: %s", model, error.message)
