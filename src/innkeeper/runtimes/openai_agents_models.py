"""How the OpenAI Agents SDK reaches its models: a client with keys from the settings, and why the model stopped.

Clients are kept for one event loop each, because connections belong to a loop. The SDK drops a reason such as
`length`, and on the Responses API makes it an error; the models here keep the text and note the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from agents import Model, ModelProvider, MultiProvider, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models.default_models import get_default_model
from openai import AsyncOpenAI
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent

from innkeeper.core.context import RunContext
from innkeeper.core.events import FinishReason
from innkeeper.runtimes.loops import LoopBound
from innkeeper.runtimes.models import OPENAI_VARIABLES, openai_client, own_environment, uses_chat_completions
from innkeeper.runtimes.settings import RuntimeSettings

_REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}
_OTHER_PROVIDERS = ("litellm/", "any-llm/")
_OWN_PREFIXES = ("openai/", "openai:")
"""The SDK's way to say whose model it is, and that of everybody else here."""


class Clients:
    """One OpenAI client an event loop."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._clients: LoopBound[AsyncOpenAI] = LoopBound(AsyncOpenAI.close)

    async def get(self) -> AsyncOpenAI:
        """The running loop's client.

        Raises: AgentFailed if `OPENAI_API_KEY` is needed and not set.
        """
        return await self._clients.get("openai", partial(openai_client, self._settings.environment))

    @asynccontextmanager
    async def lent(self, context: RunContext) -> AsyncIterator[AsyncOpenAI]:
        """The client for one run: one of its own, closed at its end, where the run has a key of its own.

        Raises: AgentFailed.
        """
        own = own_environment(context, self._settings.environment, OPENAI_VARIABLES)
        if own is None:
            yield await self.get()
            return
        client = await asyncio.to_thread(openai_client, own)
        try:
            yield client
        finally:
            await client.close()

    async def close(self) -> None:
        """Close the running loop's client."""
        await self._clients.close()


class Provider(ModelProvider):
    """The models of one run. `finish` is the last reason, other than an ordinary end, for which one stopped."""

    def __init__(self, client: AsyncOpenAI, environment: Mapping[str, str]) -> None:
        self._client = client
        self.uses_chat = _uses_chat(environment)
        self.finish: FinishReason | None = None

    def get_model(self, model_name: str | None) -> Model:
        name = model_name or get_default_model()
        if name.startswith(_OTHER_PROVIDERS):
            return MultiProvider(openai_client=self._client).get_model(name)
        for prefix in _OWN_PREFIXES:
            name = name.removeprefix(prefix)
        return _Chat(name, self._client, self) if self.uses_chat else _Responses(name, self._client, self)

    def note(self, reason: str | None) -> None:
        self.finish = _REASONS.get(reason or "")


def _uses_chat(environment: Mapping[str, str]) -> bool:
    """`OPENAI_AGENTS_API` decides; without it, Responses for OpenAI and chat completions for other servers."""
    chosen = environment.get("OPENAI_AGENTS_API", "").strip().lower()
    return chosen == "chat_completions" if chosen else uses_chat_completions(environment)


class _Chat(OpenAIChatCompletionsModel):
    def __init__(self, name: str, client: AsyncOpenAI, provider: Provider) -> None:
        super().__init__(name, client)
        self._provider = provider

    async def _fetch_response(self, *args: Any, **kwargs: Any) -> Any:
        fetched: Any = await super()._fetch_response(*args, **kwargs)
        if not isinstance(fetched, tuple):
            return fetched
        response, stream = fetched
        return response, _WatchedStream(stream, self._provider)


class _WatchedStream:
    """A stream of chunks that notes their finish reason."""

    def __init__(self, stream: Any, provider: Provider) -> None:
        self._stream = stream
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for chunk in self._stream:
            if chunk.choices and chunk.choices[0].finish_reason:
                self._provider.note(chunk.choices[0].finish_reason)
            yield chunk


class _Responses(OpenAIResponsesModel):
    def __init__(self, name: str, client: AsyncOpenAI, provider: Provider) -> None:
        super().__init__(name, client)
        self._provider = provider

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        stream: Any = super().stream_response(*args, **kwargs)
        async with aclosing(stream) as events:
            async for event in events:
                if event.type == "response.incomplete":
                    yield self._completed(event)
                    return
                if event.type == "response.completed":
                    self._provider.note(None)
                yield event

    def _completed(self, event: ResponseIncompleteEvent) -> ResponseCompletedEvent:
        details = event.response.incomplete_details
        self._provider.note(details.reason if details else None)
        return ResponseCompletedEvent(
            response=event.response, sequence_number=event.sequence_number, type="response.completed"
        )
