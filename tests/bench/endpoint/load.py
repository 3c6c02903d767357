"""Clients in a process of their own: each asks again as soon as it was answered.

python -m tests.bench.endpoint.load URL MODEL KEY STREAMS REQUESTS [--stream]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time

import aiohttp

PROMPT = "What is the sum of the first {number} primes?"


async def ask(http: aiohttp.ClientSession, args: argparse.Namespace, number: int) -> float:
    """Seconds to the end of an answer, or to the first piece of a stream."""
    document = {
        "model": args.model,
        "messages": [{"role": "user", "content": PROMPT.format(number=number % 50)}],
        "stream": args.stream,
    }
    started = time.perf_counter()
    async with http.post(args.url, json=document) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {await answer.text()}")
        first = 0.0
        async for _ in answer.content.iter_any():
            first = first or time.perf_counter() - started
        return first if args.stream else time.perf_counter() - started


async def run(args: argparse.Namespace) -> dict[str, float]:
    """All requests."""
    taken: list[float] = []
    left = iter(range(args.requests))
    headers = {"Authorization": f"Bearer {args.key}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def client(place: int) -> None:
            # Clients that begin together stay together, and wait for each other at the endpoint.
            await asyncio.sleep(args.spread_s * place / args.streams)
            taken.extend([await ask(http, args, number) for number in left])

        started = time.perf_counter()
        await asyncio.gather(*(client(place) for place in range(args.streams)))
        wall_s = time.perf_counter() - started
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "per_s": len(taken) / wall_s,
        "cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("key")
    parser.add_argument("streams", type=int)
    parser.add_argument("requests", type=int)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--spread-s", type=float, default=0.0)
    sys.stdout.write(json.dumps(asyncio.run(run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
