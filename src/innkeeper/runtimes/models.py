"""Models: what a "provider:model" string stands for, with keys from the settings and never from `os.environ`.

A model is built at the first run that needs it, so that a server starts without keys, and kept for as long as
its event loop lives, because HTTP connections belong to a loop. `test` is the scripted model of
`runtimes.scripted`, `local:…` the bundled small model of `runtimes.local`; every other string is Pydantic AI's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.loops import LoopBound
from innkeeper.runtimes.settings import RuntimeSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from pydantic_ai.models import Model
    from pydantic_ai.providers import Provider

OPENAI_URL = "https://api.openai.com/v1"

_KEYS: Mapping[str, tuple[str, ...]] = {
    "alibaba": ("ALIBABA_API_KEY", "DASHSCOPE_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY",),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "bedrock-mantle": ("AWS_BEARER_TOKEN_BEDROCK",),
    "cohere": ("CO_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "heroku": ("HEROKU_INFERENCE_KEY",),
    "huggingface": ("HF_TOKEN",),
    "vercel": ("VERCEL_AI_GATEWAY_API_KEY",),
    "voyageai": ("VOYAGE_API_KEY",),
}
_BASE_URLS: Mapping[str, tuple[str, ...]] = {"cohere": ("CO_BASE_URL",), "heroku": ("HEROKU_INFERENCE_URL",)}
OPENAI_VARIABLES = frozenset({"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_ORG_ID"})
_SHARED: Mapping[str, tuple[str, ...]] = {
    "azure_endpoint": ("AZURE_OPENAI_ENDPOINT",),
    "api_version": ("OPENAI_API_VERSION",),
}


class Models:
    """The models of one runtime."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._built: LoopBound[Model] = LoopBound(_close)

    async def get(self, name: str) -> Model:
        """The model called `name`, for the running event loop.

        Raises: AgentFailed, which names the variable or the package that is missing.
        """
        if name.startswith("local:"):
            return await self._local(name)
        return await self._built.get(name, partial(build, name, self._settings.environment))

    @asynccontextmanager
    async def lent(self, name: str, context: RunContext) -> AsyncIterator[Model]:
        """The model for one run: one of its own, closed at its end, where the run has keys of its own for it.

        Raises: AgentFailed.
        """
        own = own_environment(context, self._settings.environment, variables_of(name.partition(":")[0]))
        if own is None:
            yield await self.get(name)
            return
        model = await asyncio.to_thread(build, name, own)
        try:
            yield model
        finally:
            await _close(model)

    async def close(self) -> None:
        """Close the connections of the running loop's models."""
        await self._built.close()

    async def _local(self, name: str) -> Model:
        # The endpoint is asked for at every run: a child process that died comes back on another port.
        from innkeeper.runtimes import local

        endpoint = await local.endpoint(name, self._settings)
        chat = partial(_local_chat, endpoint.model, endpoint.base_url, endpoint.api_key, endpoint.headers)
        return await self._built.get(f"{endpoint.base_url} {endpoint.model}", chat)


async def _close(model: Model) -> None:
    client: Any = getattr(getattr(model, "provider", None), "client", None)
    closing = client.close() if hasattr(client, "close") else None
    if inspect.isawaitable(closing):
        await closing


def build(name: str, environment: Mapping[str, str]) -> Model:
    """The model that `name` describes, with its keys from `environment`.

    Raises: AgentFailed, which names the variable or the package that is missing.
    """
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model

    if name == "test":
        from innkeeper.runtimes.scripted import scripted_model

        return scripted_model()
    provider, _, model = name.partition(":")
    if not model:
        raise AgentFailed(f"{name!r} names no model: write provider:model, for example openai:gpt-4o.")
    try:
        if provider == "openai" and uses_chat_completions(environment):
            name = f"openai-chat:{model}"
        return infer_model(name, provider_factory=partial(_provider, environment=environment))
    except ImportError as error:
        raise AgentFailed(f"The model {name!r} needs a package that is not installed. {error}") from error
    except (UserError, ValueError) as error:
        raise AgentFailed(f"The model {name!r} cannot be used. {error}") from error


def uses_chat_completions(environment: Mapping[str, str]) -> bool:
    """Whether OpenAI models are asked over chat completions: what most servers behind `OPENAI_BASE_URL` speak.

    OpenAI itself is asked over Responses, its own default; `openai-chat:` and `openai-responses:` choose.
    """
    return bool(environment.get("OPENAI_BASE_URL"))


def openai_client(environment: Mapping[str, str]) -> AsyncOpenAI:
    """A client for OpenAI, or for the server at `OPENAI_BASE_URL`, which may do without a key.

    Raises: AgentFailed if `OPENAI_API_KEY` is needed and not set.
    """
    from openai import AsyncOpenAI

    base_url = environment.get("OPENAI_BASE_URL")
    key = environment.get("OPENAI_API_KEY") or ("not-needed" if base_url else None)
    if key is None:
        raise AgentFailed("OPENAI_API_KEY is not set: put it into the environment or .env.")
    organization = environment.get("OPENAI_ORGANIZATION") or environment.get("OPENAI_ORG_ID")
    return AsyncOpenAI(api_key=key, base_url=base_url or OPENAI_URL, organization=organization)


def own_environment(
    context: RunContext, environment: Mapping[str, str], variables: Collection[str]
) -> Mapping[str, str] | None:
    """The environment with what the run has changed in it; `None` where it has changed none of these variables."""
    changes = context.environment.changes
    if changes.keys().isdisjoint(variables):
        return None
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def variables_of(provider: str) -> frozenset[str]:
    """The variables from which a provider's client is made."""
    if provider in ("openai", "openai-chat", "openai-responses"):
        return OPENAI_VARIABLES
    prefix = provider.upper().replace("-", "_")
    keys = _KEYS.get(provider, (f"{prefix}_API_KEY",))
    return frozenset((*keys, *_BASE_URLS.get(provider, (f"{prefix}_BASE_URL",)), *chain(*_SHARED.values())))


def _local_chat(model: str, base_url: str, api_key: str, headers: Mapping[str, str]) -> Model:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(api_key=api_key, base_url=base_url, default_headers=headers)
    profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
    return OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client), profile=profile)


def _provider(name: str, environment: Mapping[str, str]) -> Provider[Any]:
    from pydantic_ai.providers import infer_provider, infer_provider_class

    if name.startswith("gateway/"):
        return infer_provider(name)
    known = infer_provider_class(name)
    if name in ("openai", "openai-chat", "openai-responses"):
        return known(openai_client=openai_client(environment))  # type: ignore[call-arg]  # of this one class
    accepted = inspect.signature(known.__init__).parameters
    prefix = name.upper().replace("-", "_")
    variables = {
        "api_key": _KEYS.get(name, (f"{prefix}_API_KEY",)),
        "base_url": _BASE_URLS.get(name, (f"{prefix}_BASE_URL",)),
        **_SHARED,
    }
    found = {
        argument: next((environment[one] for one in names if environment.get(one)), None)
        for argument, names in variables.items()
        if argument in accepted
    }
    return known(**{argument: value for argument, value in found.items() if value is not None})
