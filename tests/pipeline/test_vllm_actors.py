"""A language model under Ray Data: a pool of actors, one of which is killed while it works."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import describe_model
from moa.router.prompt_tokens import PromptTokens
from moa.router.vllm_backbone import open_language_model
from tests.router.language_models import QUIET, SMALL, make_qwen, need

need("vllm", "torch", "transformers")
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(line) for line in QUIET)]

BLOCKS, ROWS = 8, 50
CLOSE = 1e-5
DEADLY = "this one kills its replica, once"
LONG = "long " * 5000
EMBEDDED = pa.schema(
    [("row", pa.int64()), ("embedding", pa.list_(pa.float32())), ("cut", pa.bool_())]
)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=200 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    yield
    ray.shutdown()


class Embed:
    """Texts → embeddings. A text that is null has none, as a defective query has no score."""

    def __init__(self, spec: LanguageModelSpec, folder: Path, killed: Path) -> None:
        self._backbone = open_language_model(spec, SMALL, folder=folder)
        self._killed = killed

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch.column("text").to_pylist()
        if DEADLY in texts and not self._killed.exists():
            self._killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        good = [number for number, text in enumerate(texts) if text is not None]
        rows = self._backbone.embed_rows([texts[number] for number in good])
        embeddings: list[np.ndarray | None] = [None] * len(texts)
        cut: list[bool | None] = [None] * len(texts)
        for place, number in enumerate(good):
            embeddings[number], cut[number] = rows.embeddings[place], bool(rows.cut[place])
        columns = {"row": batch.column("row"), "embedding": embeddings, "cut": cut}
        return pa.table(columns, schema=EMBEDDED)


def test_a_pool_embeds_every_row_once_though_a_replica_is_killed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_qwen(tmp_path / "qwen")
    spec = describe_model(
        folder,
        name="qwen",
        pooling="last",
        max_tokens=128,
        dtype="float32",
        template="<|im_start|>Answer. {query}<|im_end|>",
    )
    texts: list[str | None] = [
        f"Question {n}: what is {n} times {n}?" for n in range(BLOCKS * ROWS)
    ]
    texts[120:125] = ["", None, LONG, "\0", DEADLY]
    killed = tmp_path / "killed"
    DataContext.get_current().enable_progress_bars = False

    blocks = list(
        ray.data.from_arrow(
            [
                pa.table({"row": range(start, start + ROWS), "text": texts[start : start + ROWS]})
                for start in range(0, len(texts), ROWS)
            ]
        )
        .map_batches(
            Embed,
            fn_constructor_args=(spec, folder, killed),
            batch_size=ROWS,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=2),
            num_cpus=1,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )

    assert killed.exists()
    assert len(blocks) == BLOCKS
    found = pa.concat_tables(blocks).sort_by("row")
    assert found.column("row").to_pylist() == list(range(len(texts)))
    embeddings = found.column("embedding").to_pylist()
    assert [n for n, one in enumerate(embeddings) if one is None] == [121]
    assert [n for n, one in enumerate(found.column("cut").to_pylist()) if one] == [122]
    good = [n for n in range(len(texts)) if n != 121]
    wanted = by_transformers(folder, spec, [str(texts[n]) for n in good])
    np.testing.assert_allclose([embeddings[n] for n in good], wanted, atol=CLOSE)


def by_transformers(folder: Path, spec: LanguageModelSpec, texts: list[str]) -> np.ndarray:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = PromptTokens(
        folder / "tokenizer.json", template=spec.template, max_tokens=spec.max_tokens
    )
    found = []
    for ids in tokens(texts).ids:
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        found.append(last / np.linalg.norm(last))
    return np.stack(found)
