"""A server with hooks around each request, prices, and agents that are looked up by name.

innkeeper serve examples/server_hooks.py
curl http://127.0.0.1:8000/german                  # is there an agent of that name?
innkeeper chat greeter
"""

from typing import Any

from fastapi import HTTPException, Request

from innkeeper import ServerBase, get_context, pricing

LANGUAGES = {"german": "Guten Tag", "french": "Bonjour"}

app = ServerBase()


@app.agent("greeter")
@pricing(credits_per_request=2)
async def greeter(messages: list[dict[str, Any]]) -> str:
    context = get_context()
    assert context is not None, "an agent runs inside a request"
    context.track_usage(credits=2, reason="a greeting")
    return f"Hello! You said: {messages[-1]['content']}"


def find_language(name: str) -> dict[str, str] | None:
    """Agents that need not be listed: one for each language that we know."""
    greeting = LANGUAGES.get(name)
    return None if greeting is None else {"greeting": greeting}


@app.agent(find_language)
async def translated(messages: list[dict[str, Any]], agent_data: dict[str, str]) -> str:
    return f"{agent_data['greeting']}! {messages[-1]['content']}"


@app.agent.before_request
async def refuse_robots(request: Request) -> None:
    if request.headers.get("x-robot") == "true":
        raise HTTPException(403, "No robots, please.")


@app.agent.finalize_request
async def report(request: Request, response: Any) -> None:
    context = get_context()
    if context is not None:
        print(
            f"{request.url.path}: {context.get_duration():.3f} s, {context.usage['total_credits']} credits", flush=True
        )


@app.get("/hello")
async def hello() -> dict[str, str]:
    """A route of the app's own, beside the server's."""
    return {"message": "This app is FastAPI: add what you like."}
