"""Checkpoints: the memory of one run of a graph, and how it is put aside while people decide.

Within a run a checkpoint is what the graph holds, not a copy of it, so that a graph may hold what nobody can serialise.
It is serialised only when the run is paused, by LangGraph's own serializer and never by pickle.
Importing this module imports `langgraph`.
"""

from __future__ import annotations

import base64
from operator import itemgetter
from typing import Any, cast

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from innkeeper.core.errors import AgentFailed

_LIVE = "live"


class _Live(SerializerProtocol):
    """Keeps values as they are; of a checkpoint, whose own dicts LangGraph changes, it gives copies."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return (_LIVE, cast("bytes", obj))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        value: Any = data[1]
        if isinstance(value, dict) and "versions_seen" in value and "channel_versions" in value:
            seen = {node: dict(versions) for node, versions in value["versions_seen"].items()}
            return {**value, "channel_versions": dict(value["channel_versions"]), "versions_seen": seen}
        return value


class RunSaver(InMemorySaver):
    """The checkpoints of one run."""

    def __init__(self) -> None:
        super().__init__(serde=_Live())

    def dump(self) -> str:
        """What another process can `load`.

        Raises: AgentFailed if the graph holds what cannot be serialised.
        """
        held: dict[str, list[list[Any]]] = {
            "storage": [
                [thread, namespace, checkpoint_id, checkpoint[1], metadata[1], parent]
                for thread, namespaces in self.storage.items()
                for namespace, checkpoints in namespaces.items()
                for checkpoint_id, (checkpoint, metadata, parent) in checkpoints.items()
            ],
            "writes": [
                [*key, *inner, *write] for key, writes in self.writes.items() for inner, write in writes.items()
            ],
            "blobs": [[*key, *blob] for key, blob in self.blobs.items()],
        }
        return _encoded(self._needed(held))

    def _needed(self, held: dict[str, list[list[Any]]]) -> dict[str, list[list[Any]]]:
        """What belongs to the latest checkpoint of each namespace. Channels that are told as differences need all."""
        if any("counters_since_delta_snapshot" in metadata for *_, metadata, _ in held["storage"]):
            return held
        latest = {(one[0], one[1]): one for one in sorted(held["storage"], key=itemgetter(2))}
        kept = {tuple(one[:3]) for one in latest.values()}
        versions = {
            (thread, namespace, channel, version)
            for thread, namespace, _, checkpoint, *_ in latest.values()
            for channel, version in checkpoint["channel_versions"].items()
        }
        return {
            "storage": list(latest.values()),
            "writes": [one for one in held["writes"] if tuple(one[:3]) in kept],
            "blobs": [one for one in held["blobs"] if tuple(one[:4]) in versions],
        }

    @classmethod
    def load(cls, dumped: str) -> RunSaver:
        """The checkpoints that `dump` gave."""
        held = _decoded(dumped)
        saver = cls()
        for thread, namespace, checkpoint_id, checkpoint, metadata, parent in held["storage"]:
            saver.storage[thread][namespace][checkpoint_id] = ((_LIVE, checkpoint), (_LIVE, metadata), parent)
        for thread, namespace, checkpoint_id, task, place, _, channel, value, path in held["writes"]:
            written = (task, channel, (value[0], value[1]), path)
            saver.writes[(thread, namespace, checkpoint_id)][(task, place)] = written
        for thread, namespace, channel, version, kind, value in held["blobs"]:
            saver.blobs[(thread, namespace, channel, version)] = (kind, value)
        return saver


def _encoded(held: object) -> str:
    try:
        kind, data = JsonPlusSerializer().dumps_typed(held)
    except Exception as error:
        raise AgentFailed(
            f"The graph waits for an answer, but its state cannot be put aside: {type(error).__name__}: {error}."
        ) from error
    return f"{kind}:{base64.b64encode(data).decode()}"


def _decoded(dumped: str) -> Any:
    kind, _, data = dumped.partition(":")
    return JsonPlusSerializer().loads_typed((kind, base64.b64decode(data)))
