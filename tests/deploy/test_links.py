"""No document leads nowhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.deploy.documents import ROOT, anchors, links

DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "runs", "build", "node_modules"} & set(path.relative_to(ROOT).parts[:-1])
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    astray = []
    for link, said in links(document):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            astray.append(f"[{said}]({link})")

    assert not astray


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` & C's, d\n\n- [x](#a-b--cs-d) ![y](z.png)\n\n| h |\n|-|\n| [t](u) |\n")

    assert anchors(page) == {"a-b--cs-d"}
    assert list(links(page)) == [("#a-b--cs-d", "x"), ("z.png", "y"), ("u", "t")]
