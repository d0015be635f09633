"""Pages of the site: what MkDocs makes of docs/*.md, the documents at the root, and the pages that code writes.

MkDocs calls the functions `on_…` while it builds (`hooks` in mkdocs.yml). A page is the same Markdown as in the
repository, where its examples are played by tests: only its links and fences are put in MkDocs' words, and its diagrams
are drawn here, so that the site loads nothing from elsewhere. `site_references`, next door, writes pages from the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import mmdr

from scripts import site_references

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
_FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_NAME = re.compile(r"(?<=<code>)[^<\s]{9,}(?=</code>)")
_JOINT = re.compile(r"(?<=\w)[_./]+(?=\w)")
_LINK = re.compile(r"\]\((?:\.\./|docs/)?([\w./-]+)(#[\w-]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and what the site needs in browsers."""
    from mkdocs.structure.files import File

    for name, place in ROOT_PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text(encoding="utf-8")))
    for asset in sorted((ROOT / "scripts" / "site_assets").iterdir()):
        files.append(File.generated(config, f"assets/{asset.name}", content=asset.read_bytes()))
    for place, content in site_references.pages(ROOT).items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page in MkDocs' words; its diagrams become images of the site."""
    from mkdocs.structure.files import File

    drawn: list[str] = []

    def reworded(fence: re.Match[str]) -> str:
        language, words, text = fence.groups()
        if language != "mermaid":
            return f"```{language}{_title(words)}\n{text}```"
        place = f"diagrams/{Path(page.file.src_uri).stem}-{len(drawn) + 1}.svg"
        drawn.append(place)
        files.append(File.generated(config, place, content=drawing(text)))
        return f"![Diagram: {_outline(text)}]({place}){{ .diagram }}"

    is_written_here = page.file.src_uri.startswith("reference/")
    return _FENCE.sub(reworded, markdown if is_written_here else relinked(markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let names in tables break behind their underscores, dots and slashes, and nowhere else."""

    def loosened(table: re.Match[str]) -> str:
        return _NAME.sub(lambda name: _JOINT.sub(r"\g<0><wbr>", name[0]), table[0])

    return _TABLE.sub(loosened, html)


def relinked(markdown: str) -> str:
    """Links of a document as they lead within the site, where it lies beside all others."""
    return _LINK.sub(lambda link: f"]({ROOT_PAGES.get(link[1], link[1])}{link[2] or ''})", markdown)


def drawing(diagram: str) -> str:
    """A Mermaid diagram as an SVG of its own. It is white behind, since a dark page would hide its lines."""
    svg: str = mmdr.render(diagram).svg()
    return svg.replace('style="', 'style="background:#fff;', 1)


def _title(words: str) -> str:
    """What stands above a fence: the file that it is. What else its words say is for the tests."""
    file = next((word.partition("=")[2] for word in words.split() if word.startswith("file=")), None)
    return f' title="{file}"' if file else ""


def _outline(diagram: str) -> str:
    """What a diagram says, for those who cannot see it."""
    said = re.findall(r'\["?([^"\]]+)"?\]|: *(.+)$', diagram, re.MULTILINE)
    words = (re.sub(r"<br>|[\[\]()\"*]", " ", first or second).strip() for first, second in said)
    return "; ".join(dict.fromkeys(word for word in words if word))
