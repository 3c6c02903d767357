"""Texts → token ids of one model: the template around them, the middle of long ones left out.

Training and serving both tokenise here, so that a model reads later what it was trained on. Nothing
that a query says can be taken for the template: its text is tokenised by itself, what looks like a
special token in it is ordinary text, and a cut never reaches into the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.errors import ArtifactError, ConfigError
from moa.router.backbone_spec import QUERY

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ELISION = " […] "
"""Stands for what was left out of a long query."""
TOKENIZER = "tokenizer.json"
LEAST_QUERY_TOKENS = 8
CHARACTERS_PER_TOKEN = 16
"""Of a longer text only so many at either end are tokenised for each token of `max_tokens`: a
prompt of 100 MB would otherwise hold up its batch. English has 4 to 5."""
_AT_ONCE = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenRows(NamedTuple):
    """What a model reads of n texts."""

    ids: list[list[int]]
    """Never empty, never longer than `max_tokens`."""
    cut: NDArray[np.bool_]
    """Whether the middle was left out, shape (n,)."""


class PromptTokens:
    """The tokenizer of a model, as one spec uses it.

    Args:
        file: the model's `tokenizer.json`.
        template: with `{query}` exactly once.
        max_tokens: of a prompt with its template.

    Raises:
        ConfigError: the `tokenizers` package is not installed, or the template leaves less than
            `LEAST_QUERY_TOKENS` of `max_tokens` for the query.
        ArtifactError: the file cannot be read.
    """

    def __init__(self, file: Path, *, template: str, max_tokens: int) -> None:
        self._tokenizer = _open(file)
        first, last = _specials(self._tokenizer)
        before, after = (self._plain(part) for part in template.split(QUERY))
        self._tokenizer.encode_special_tokens = True  # from here on, queries only
        self._before, self._after = first + before, after + last
        self._elision = self._plain(ELISION)
        self._room = max_tokens - len(self._before) - len(self._after)
        least = LEAST_QUERY_TOKENS + len(self._elision)
        if self._room < least:
            raise ConfigError(
                f"max_tokens = {max_tokens}: the template takes {max_tokens - self._room} of them, "
                f"and a query needs at least {least}. Raise max_tokens, or shorten the template"
            )
        self._most_characters = CHARACTERS_PER_TOKEN * max_tokens

    @property
    def largest_id(self) -> int:
        """The largest token id that can come out."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return max(vocabulary.values())

    def __call__(self, texts: Sequence[str]) -> TokenRows:
        """Any text has tokens: halves of characters become U+FFFD, and a text of which nothing
        remains is read as if it had been left out."""
        ids: list[list[int]] = []
        cut = np.zeros(len(texts), np.bool_)
        for start in range(0, len(texts), _AT_ONCE):
            for text, tokens in self._tokenized(texts[start : start + _AT_ONCE]):
                if len(text) > 2 * self._most_characters:
                    cut[len(ids)] = True
                    tokens = self._ends(text)
                elif len(tokens) > self._room:
                    cut[len(ids)] = True
                    tokens = self._middle_out(tokens, tokens)
                elif not tokens and not self._before and not self._after:
                    tokens = self._elision
                ids.append(self._before + tokens + self._after)
        return TokenRows(ids, cut)

    def _tokenized(self, texts: Sequence[str]) -> Iterable[tuple[str, list[int]]]:
        sound = [_sound(text) for text in texts]
        # Those that are longer are tokenised at their ends.
        short = [text if len(text) <= 2 * self._most_characters else "" for text in sound]
        encodings = self._tokenizer.encode_batch_fast(short, add_special_tokens=False)
        return zip(sound, (encoding.ids for encoding in encodings), strict=True)

    def _ends(self, text: str) -> list[int]:
        head = self._plain(text[: self._most_characters])
        tail = self._plain(text[-self._most_characters :])
        return self._middle_out(head, tail)

    def _middle_out(self, head: list[int], tail: list[int]) -> list[int]:
        """The beginning of one, the end of the other, with the mark of elision between."""
        kept = self._room - len(self._elision)
        return head[: kept - kept // 2] + self._elision + tail[-(kept // 2) :]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _open(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            "a language model as backbone needs the package tokenizers: install the extra cpu "
            "(`make cpu`), gpu or fine-tune"
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # it raises nothing narrower, whatever is wrong with the file
        raise ArtifactError(
            f"{file} is no tokenizer ({error}): give a model folder with the tokenizer.json that "
            "its maker published"
        ) from None
    # A file may say both, for the use that its maker had in mind.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _specials(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the model wants before and after every prompt, such as [CLS] and [SEP]."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    plain = [n for n, special in enumerate(encoding.special_tokens_mask) if not special]
    if not plain:
        return encoding.ids, []
    return encoding.ids[: plain[0]], encoding.ids[plain[-1] + 1 :]


def _sound(text: str) -> str:
    """Without lone surrogates, which no encoding of Unicode has."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
