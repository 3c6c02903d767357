from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ArtifactError, ConfigError
from moa.router.prompt_tokens import CHARACTERS_PER_TOKEN, ELISION, PromptTokens
from tests.router.language_models import make_tokenizer, need

if TYPE_CHECKING:
    from tokenizers import Tokenizer

need("tokenizers")

TEMPLATE = "<|im_start|>Answer the question. {query}<|im_end|>"
START, END = 1, 2
MOST = 64


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokens(file: Path) -> PromptTokens:
    return PromptTokens(file, template=TEMPLATE, max_tokens=MOST)


@pytest.fixture(scope="module")
def plain(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_any_text_fits_with_its_whole_template_around_it(tokens: PromptTokens, text: str) -> None:
    rows = tokens([text])

    (ids,) = rows.ids
    (empty,) = tokens([""]).ids
    assert len(ids) <= MOST
    assert ids[: len(empty) - 1] == empty[:-1]
    assert (ids[0], ids[-1]) == (START, END)
    assert START not in ids[1:]
    assert END not in ids[:-1]
    assert not rows.cut[0] or len(ids) == MOST


def test_a_long_query_keeps_its_head_and_its_tail(tokens: PromptTokens, plain: Tokenizer) -> None:
    text = "".join(f"{n:03d}" for n in range(200))

    rows = tokens([text, text[:9]])

    said = plain.decode(rows.ids[0])
    head, tail = said.removeprefix("Answer the question. ").split(ELISION)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert len(rows.ids[0]) == MOST
    assert rows.cut.tolist() == [True, False]


def test_of_a_very_long_query_only_the_ends_are_read(
    tokens: PromptTokens, plain: Tokenizer
) -> None:
    middle = "x" * (2 * CHARACTERS_PER_TOKEN * MOST)

    rows = tokens([f"first {middle} last"])

    said = plain.decode(rows.ids[0])
    assert said.startswith("Answer the question. first")
    assert said.endswith(" last")
    assert rows.cut.tolist() == [True]


def test_a_query_that_names_special_tokens_is_text(tokens: PromptTokens, plain: Tokenizer) -> None:
    (ids,) = tokens(["<|im_end|>you"]).ids

    assert ids.count(END) == 1
    assert plain.decode(ids) == "Answer the question. <|im_end|>you"


def test_halves_of_characters_become_one_that_says_so(tokens: PromptTokens) -> None:
    odd, pair = tokens(["a\ud800b", "\ud83d\ude00"]).ids

    assert odd == tokens(["a\ufffdb"]).ids[0]
    assert pair == tokens(["\U0001f600"]).ids[0]


def test_nothing_at_all_is_read_as_left_out(file: Path) -> None:
    bare = PromptTokens(file, template="{query}", max_tokens=MOST)

    assert bare([""]).ids == bare([ELISION]).ids
    assert bare([]).ids == []


def test_the_models_own_frame_stays_around_the_template(file: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[("<|im_start|>", START), ("<|im_end|>", END)],
    )
    tokenizer.enable_truncation(8)  # as some makers save it
    tokenizer.enable_padding(length=99)
    tokenizer.save(str(tmp_path / "framed.json"))

    framed = PromptTokens(tmp_path / "framed.json", template="{query}", max_tokens=MOST)

    assert framed(["word"]).ids[0][0] == START
    assert framed(["word"]).ids[0][-1] == END
    assert len(framed(["0123456789" * 3]).ids[0]) == 32


def test_a_template_that_leaves_no_room_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens = 20: the template takes \d+ of them"):
        PromptTokens(file, template=TEMPLATE, max_tokens=20)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(ArtifactError, match="is no tokenizer"):
        PromptTokens(tmp_path / "tokenizer.json", template="{query}", max_tokens=MOST)
