"""Which bus is made of which settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from innkeeper.buses.memory import MemoryBus
from innkeeper.buses.postgres import PostgresBus
from innkeeper.buses.redis import RedisBus
from innkeeper.config import load_settings
from innkeeper.core.errors import MissingDependency, SetupError
from innkeeper.wiring import open_bus
from tests.support.buses import Ear
from tests.support.services import free_port

POSTGRES = "postgresql+asyncpg://me:hunter2@db.example/inn"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_one_process_on_sqlite_wakes_nobody() -> None:
    assert isinstance(open_bus(load_settings()), MemoryBus)


def test_processes_on_postgres_wake_each_other_through_it() -> None:
    assert isinstance(open_bus(load_settings({"database_url": POSTGRES})), PostgresBus)


def test_redis_is_used_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", POSTGRES)
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    assert isinstance(open_bus(load_settings()), RedisBus)


def test_the_configuration_file_may_name_it(tmp_path: Path) -> None:
    file = tmp_path / "innkeeper.yaml"
    file.write_text("redis:\n  url: redis://localhost\n")
    assert isinstance(open_bus(load_settings(config=file)), RedisBus)


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", "{port}", "127.0.0.1:{port}"),
        ("127.0.0.1", "tcp://10.0.0.1:{port}", "127.0.0.1:{port}"),  # what Kubernetes says of a service
        ("::1", "{port}", "::1:{port}"),
        ("no-such-host.invalid", None, "no-such-host.invalid:6379"),
    ],
)
async def test_its_host_and_port_may_be_named_instead(
    monkeypatch: pytest.MonkeyPatch, host: str, port: str | None, address: str
) -> None:
    free = free_port()
    monkeypatch.setenv("REDIS_HOST", host)
    if port is not None:
        monkeypatch.setenv("REDIS_PORT", port.format(port=free))
    bus = open_bus(load_settings())
    with pytest.raises(SetupError, match=f"Redis at {address.format(port=free)} cannot be reached"):
        await bus.open(Ear())


def test_a_port_alone_names_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "6379")
    assert isinstance(open_bus(load_settings()), MemoryBus)


@pytest.mark.parametrize("port", ["0", "65536", "six", "tcp://10.0.0.1"])
def test_a_port_that_cannot_be_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("REDIS_PORT", port)
    with pytest.raises(SetupError, match="REDIS_PORT"):
        load_settings()


def test_the_settings_show_no_password() -> None:
    assert "hunter2" not in repr(load_settings({"redis_url": "redis://:hunter2@localhost"}))


@pytest.mark.parametrize(
    ("package", "setting", "extra"),
    [("redis", {"redis_url": "redis://localhost"}, "redis"), ("asyncpg", {"database_url": POSTGRES}, "postgres")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, setting: dict[str, str], extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"innkeeper.buses.{extra}")
    with pytest.raises(MissingDependency, match=rf"needs the package {package}.*: pip install 'innkeeper\[{extra}\]'"):
        open_bus(load_settings(setting))
