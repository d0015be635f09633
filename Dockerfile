# The server in an image: no build tools, no secrets, not root. It serves /app/agents, keeps its state in /data,
# and takes its settings from the environment: docs/deploy.md.

FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# The environment has no pip of its own: the one beside it installs into it. What is installed is this folder.
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/innkeeper \
    && pip --python /opt/innkeeper/bin/python install --no-cache-dir ".[postgres,redis,s3,mcp,code,otel,oidc]"

FROM python:3.13-slim
RUN groupadd --system --gid 10001 innkeeper \
    && useradd --system --uid 10001 --gid innkeeper --home-dir /data --no-create-home --shell /usr/sbin/nologin innkeeper \
    && mkdir -p /app/agents /data \
    && chown innkeeper:innkeeper /data
COPY --from=build /opt/innkeeper /opt/innkeeper
COPY examples/functions.py /app/agents/functions.py
ENV PATH=/opt/innkeeper/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    API_HOST=0.0.0.0 \
    API_PORT=8000 \
    INNKEEPER_DATA_DIR=/data \
    INNKEEPER_CACHE_DIR=/data/cache \
    INNKEEPER_TARGETS=agents/functions.py
WORKDIR /app
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['API_PORT'] + '/live', timeout=2)"]
# What is not migrated is not served; then the server takes the place of the shell, and hears SIGTERM itself.
CMD ["sh", "-c", "innkeeper migrate && exec innkeeper serve"]
