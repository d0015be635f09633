"""The site of docs/: built without a warning, with every page and public name, loading nothing from elsewhere."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.screenshots import IMAGES, SCENES, screenshot
from scripts.site_references import MODULES

ROOT = Path(__file__).resolve().parents[2]
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nhooks:")[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run([sys.executable, "-m", "mkdocs", *words], cwd=ROOT, env=environment, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    return folder


def test_every_page_of_docs_is_in_the_navigation() -> None:
    named = set(re.findall(r"([\w/-]+\.md)$", NAV, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    missing = sorted(pages - named)
    assert not missing, f"mkdocs.yml names these pages nowhere below `nav`: {', '.join(missing)}"


def test_the_site_is_built_without_a_warning_and_no_link_leads_nowhere(site: Path) -> None:
    assert (site / "index.html").exists()
    assert (site / "search" / "search_index.json").exists()


def test_the_search_works_where_the_site_is_opened_from_a_disk(site: Path) -> None:
    page = (site / "reference" / "http.html").read_text(encoding="utf-8")
    assert page.index("../assets/iframe-worker.js") < page.index("/bundle.")
    assert (site / "assets" / "iframe-worker.js").exists()
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")


def test_a_name_in_a_table_breaks_between_its_words_only(site: Path) -> None:
    page = (site / "settings.html").read_text(encoding="utf-8")
    assert "<code>RATE_<wbr>LIMIT_<wbr>ANONYMOUS</code>" in page
    assert 'href="assets/site.css"' in page


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    found = {
        (page.relative_to(site).as_posix(), url) for page in sorted(site.rglob("*.html")) for url in _loaded_by(page)
    }
    assert not {(page, url) for page, url in found if re.match(r"(https?:)?//", url)}
    for file in (*site.rglob("*.css"), *site.rglob("*.svg")):
        assert not re.search(r"url\([\"']?(https?:)?//|@import|<script|<image", file.read_text(encoding="utf-8")), (
            file.name
        )


class _Loads(HTMLParser):
    """Collects what a browser fetches to show a page, which is not where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "srcset", "data", "poster"} | ({"href"} if tag == "link" else set())
        self.urls += [value or "" for name, value in attrs if name in names]


def _loaded_by(page: Path) -> Iterator[str]:
    parser = _Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    yield from parser.urls


def test_diagrams_are_drawn_and_not_left_to_a_script(site: Path) -> None:
    drawn = sorted(path.name for path in (site / "diagrams").glob("*.svg"))
    fences = sum(text.count("```mermaid\n") for text in _texts())
    assert len(drawn) == fences >= 4
    for page in site.rglob("*.html"):
        assert 'class="mermaid"' not in page.read_text(encoding="utf-8")
    for name in drawn:
        assert any(f'src="diagrams/{name}"' in page.read_text(encoding="utf-8") for page in site.glob("*.html")), name


def _texts() -> Iterator[str]:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        yield path.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference_with_its_docstring(site: Path, module: str) -> None:
    page = (site / MODULES[module].replace(".md", ".html")).read_text(encoding="utf-8")
    names = [name for name in importlib.import_module(module).__all__ if name != "__version__"]
    assert names
    assert not [name for name in names if f'id="{module}.{name}"' not in page]


def test_every_route_and_every_error_is_in_the_reference(site: Path) -> None:
    from innkeeper.http.problems import PROBLEMS

    routes = html.unescape((site / "reference" / "http.html").read_text(encoding="utf-8"))
    document = json.loads((ROOT / "tests" / "snapshots" / "openapi.json").read_text(encoding="utf-8"))
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in routes
    errors = (site / "reference" / "errors.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert not [problem.code for problem in PROBLEMS.values() if f"<code>{problem.code}</code>" not in errors]


def test_a_screenshot_is_what_the_terminal_shows_today() -> None:
    kept = (IMAGES / "serve.svg").read_text(encoding="utf-8")
    assert screenshot("serve") == kept, "scripts/screenshots writes docs/images anew"


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_screenshot_is_small_and_shows_nothing_of_where_it_was_made(name: str) -> None:
    text = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert len(text.encode()) < 40_000
    assert not re.search(r"/(tmp|home|root|Users|work|var)/", text)
    assert set(re.findall(r"https?://([\w.:-]+\w)", text)) <= {"127.0.0.1:8000", "www.w3.org", "www.textualize.io"}
    assert f"images/{name}.svg" in "".join(_texts())
