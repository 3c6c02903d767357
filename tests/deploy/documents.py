"""The documents' commands and links, as a reader finds them; of a notebook, its prose."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
SHELL = {"bash", "console", "sh", "shell"}
INLINE = re.compile(
    r"(?:\.venv/bin/)?"
    r"(?:apt-get|aws|docker|gcloud|jupytext|kubectl|make|pip|pytest|python|ray|serve) \S"
)
"""How code in a sentence begins that is a command."""
_COMMENT = re.compile(r"(?:^|\s)# .*$|(?:^|\s)#$")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Block:
    """A block of code, or code in a sentence."""

    document: str
    """Path from the root."""
    line: int
    info: str
    """What the fence says that it is; empty where it says nothing."""
    text: str
    """With its line ends."""

    @property
    def first(self) -> str:
        """Its first line that says something."""
        return next((line for line in self.text.splitlines() if line.strip()), "")


@dataclass(frozen=True)
class Command:
    """One command line."""

    document: str
    line: int
    text: str
    """On one line, without its comment."""
    words: tuple[str, ...]
    """As a shell splits it, without assignments before it; `any` where a variable stands."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def blocks(path: Path) -> Iterator[Block]:
    """Every paragraph of a document's code, and code in sentences that begins as a command does."""
    name = str(path.relative_to(ROOT))
    for token in _tokens(path):
        line = (token.map or [0])[0] + 1
        if token.type in ("fence", "code_block"):
            first = line + (token.type == "fence")
            yield from _paragraphs(Block(name, first, token.info.strip(), token.content))
        for inner in token.children or ():
            if inner.type == "code_inline" and INLINE.match(inner.content):
                yield Block(name, line, "sh", inner.content)


def _paragraphs(block: Block) -> Iterator[Block]:
    """Indented blocks with nothing but an empty line between them are one to Markdown."""
    held: list[str] = []
    for number, line in enumerate([*block.text.splitlines(), ""], block.line):
        if line.strip():
            held.append(line)
        elif held:
            yield Block(block.document, number - len(held), block.info, "\n".join(held))
            held = []


def commands(block: Block) -> Iterator[Command]:
    """Its command lines; a line that ends with a backslash goes on in the next."""
    begun, at = "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        at = at if begun else number
        bare = _COMMENT.sub("", line).strip()
        begun = f"{begun} {bare.removesuffix(chr(92)).strip()}".strip()
        if bare.endswith("\\") or not begun:
            continue
        words = shlex.split(_VARIABLE.sub("any", begun))
        while words and _ASSIGNMENT.match(words[0]):
            del words[0]
        yield Command(block.document, at, begun, tuple(words))
        begun = ""


def links(path: Path) -> Iterator[tuple[str, str]]:
    """(Link as it is written, what it says) of a document."""
    for token in _tokens(path):
        children = token.children or []
        for place, inner in enumerate(children):
            if inner.type == "link_open":
                said = children[place + 1].content if place + 1 < len(children) else ""
                yield str(inner.attrs["href"]), said
            elif inner.type == "image":
                yield str(inner.attrs["src"]), inner.content


def anchors(path: Path) -> set[str]:
    """Of the document's headings, as GitHub makes them."""
    tokens, found = _tokens(path), set()
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            text = re.sub(r"[`*_]", "", tokens[place + 1].content).lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def _tokens(path: Path) -> list[Token]:
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        text = "\n\n".join(prose)
    return MarkdownIt("commonmark").enable("table").parse(text)
