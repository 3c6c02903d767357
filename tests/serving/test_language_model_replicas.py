"""A router replica whose backbone is a language model, hosted by vLLM, here on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import numpy as np
import pyarrow.parquet as pq
import pytest

from moa.request import ChatRequest
from moa.router.facts import read_facts
from moa.router.router import Scores
from moa.serving.config import load_endpoint_config
from moa.serving.routing import Scored
from moa.serving.setup import check_endpoint
from tests.jobs.conftest import KEYS, ROOT
from tests.jobs.test_language_model import artifact, settings
from tests.router.language_models import need
from tests.serving.on_ray import endpoint_on_ray

need("vllm", "torch", "transformers")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["artifact"]
BATCH = """
import json, sys
from moa.config import EngineConfig
from moa.router.router import Router

if __name__ == "__main__":  # vLLM starts processes that read this again
    url, texts, pool = json.loads(sys.argv[1])
    router = Router.load(url, engine=EngineConfig(kv_cache_memory_bytes=32 << 20))
    print("SCORES", json.dumps([part.tolist() for part in router.score(texts, pool)]))
"""


async def test_it_decides_as_the_batch_router_does(artifact: Path, tmp_path: Path) -> None:
    prompts = pq.read_table(ROOT / "moa/recordings/demo_backlog.parquet")["prompt"].to_pylist()[:16]
    chats = [
        ChatRequest.model_validate({"messages": [{"role": "user", "content": prompt}]})
        for prompt in prompts
    ]
    with endpoint_on_ray(tmp_path) as running:
        sets = settings(artifact)
        refused = running.deploy(*sets)
        deployed = running.deploy(*sets, "router.replicas=1", "router.max_wait_s=60")
        assert deployed.returncode == 0, deployed.stderr[-3000:]
        queries = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{running.url}/v1/route", json={"queries": queries}) as answer,
        ):
            said = await answer.json()

    assert refused.returncode == 2
    assert "router.replicas is 0, and the router is a language model" in refused.stderr
    version = read_facts(str(artifact)).version
    assert said["router_version"] == version
    config = load_endpoint_config(running.config, sets)
    setup = check_endpoint(config, environ=KEYS)
    scores = scored_in_one_batch(artifact, [chat.text() for chat in chats], setup.pool, tmp_path)
    routes = setup.routing().routes("moa", chats, Scored(scores, version))
    for one, route in zip(said["data"], routes, strict=True):
        assert one["expected_grade"] == pytest.approx(route.expected_grade, abs=2e-3)
        assert (one["model"], one["rule"]) == (route.model.id, route.rule)


def scored_in_one_batch(
    artifact: Path,
    texts: list[str],
    pool: tuple[str, ...],
    folder: Path,
) -> Scores:
    """By the router as the nightly job has it; in a process of its own, as engines want."""
    script = folder / "batch.py"
    script.write_text(BATCH)
    done = subprocess.run(
        [sys.executable, str(script), json.dumps([str(artifact), texts, pool])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("SCORES"))
    return Scores(*(np.asarray(part, np.float32) for part in json.loads(line.split(" ", 1)[1])))
