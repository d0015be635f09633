"""Every example of the README and of docs/ does what it shows: see `tests.support.documents` for how it is played."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.documents import commands, fences, playing

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")), *DOCUMENTS]
BY_HAND = ("./scripts/", "git clone", "cd ", "pip install", "source .venv/", "innkeeper models pull", "innkeeper chat")


@pytest.mark.timeout(360)  # a page has up to twenty processes to start, on whatever else the machine does
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_examples_of_a_document_do_what_they_show(document: Path, tmp_path: Path) -> None:
    with playing(tmp_path) as player:
        player.play(document)


def test_the_examples_of_the_readme_do_what_they_show_with_a_real_model(tmp_path: Path, weights_cache: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with playing(tmp_path, {"INNKEEPER_CACHE_DIR": str(weights_cache)}) as player:
        player.play(README)


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_every_example_says_what_becomes_of_it(document: Path) -> None:
    silent = [fence.line for fence in fences(document) if not fence.is_for_somebody]
    assert not silent, f"{document.name}: the examples in lines {silent} are played by nobody"


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_only_what_needs_a_network_or_a_person_is_left_to_a_person(document: Path) -> None:
    by_hand = [
        command.line.strip()
        for fence in fences(document)
        if "by-hand" in fence.words
        for command in commands(fence)
        if not command.line.startswith(BY_HAND)
    ]
    assert not by_hand


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        place = document if not path else (document.parent / path).resolve()
        assert place.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in _anchors(place), f"{document.name} links to {target}"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
