"""The OpenAI surface: chat completions and models, at `/v1` and per agent at the root."""
