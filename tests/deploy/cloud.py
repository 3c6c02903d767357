"""Two buckets behind a gate that enforces `deploy/iam`, and the jobs, each as its role."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import boto3
import pyarrow.parquet as pq

from moa.replay.process import ReplayServer, replay_server
from tests.deploy.policies import policy
from tests.deploy.s3_gate import S3Gate, s3_gate
from tests.jobs.conftest import KEYS, RAY, ROOT, Start, catalog_at, recorded_backlog

LOGS, ROUTING = "example-llm-logs", "example-llm-routing"
ROUTERS = f"s3://{ROUTING}/routers/nightly"
ENDPOINTS_ROUTERS = f"s3://{ROUTING}/routers/endpoint"
RUN = "nightly-2026-11-26"
ROLES = ("nightly", "endpoint", "training", "promotion")
POOL = ["openai/gpt-4o", "anthropic/claude-3-haiku"]
"""Two models, so that one night tells enough of each."""
QUERIES = 240


class Cloud:
    """A platform team's account: roles with their policies, buckets with theirs."""

    def __init__(self, home: Path, upstream: str, gate: S3Gate, server: ReplayServer) -> None:
        self.home, self.gate, self.server = home, gate, server
        self.admin = boto3.client("s3", endpoint_url=upstream, **credentials("bucket-admin"))
        self.catalog = catalog_at(home / "catalog.toml", server.base_url)
        self.started: list[Start] = []
        for bucket, guard in ((LOGS, "bucket_policy_logs"), (ROUTING, "bucket_policy")):
            self.admin.create_bucket(Bucket=bucket)
            gate.guard(bucket, policy(guard))
        for role in ROLES:
            gate.enforce(role, policy(f"aws_{role}"))
        self._log_queries()
        self.upload(Path("moa/router/embedded"), "candidates/first")

    def environ(self, role: str) -> dict[str, str]:
        """Of a process that works as a role."""
        keys = {name.upper(): value for name, value in credentials(role).items()}
        region = keys.pop("REGION_NAME")
        return {
            **os.environ, **KEYS, **RAY, **keys, "AWS_DEFAULT_REGION": region,
            "AWS_ENDPOINT_URL": self.gate.url,
        }  # fmt: skip

    def upload(self, folder: Path, to: str, role: str | None = None) -> None:
        """What is in a local folder; by the administrator, or as a role."""
        client = self.admin
        if role is not None:
            client = boto3.client("s3", endpoint_url=self.gate.url, **credentials(role))
        for file in sorted((ROOT / folder).iterdir()):
            client.upload_file(str(file), ROUTING, f"{to}/{file.name}")

    def start(
        self, role: str, job: str, config: str, *overrides: str, flags: Sequence[str] = ()
    ) -> Start:
        """One of `jobs/`, as a role."""
        path = self.home / f"{role}-{job}.toml"
        path.write_text(config)
        sets = [flag for one in overrides for flag in ("--set", one)]
        process = subprocess.Popen(
            [sys.executable, f"jobs/{job}.py", "--config", str(path), *sets, *flags],
            cwd=ROOT, env=self.environ(role), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(Start(process))
        return self.started[-1]

    def run(
        self, role: str, job: str, config: str, *overrides: str, flags: Sequence[str] = ()
    ) -> str:
        """The same to its end, which has to be good."""
        status, out, err = self.start(role, job, config, *overrides, flags=flags).wait()
        assert status == 0, err[-4000:]
        return out

    def night(self) -> str:
        """A config of the nightly job on these buckets."""
        text = (ROOT / "jobs/configs/demo.toml").read_text()
        text = text[: text.index("[replay]")]
        for before, after in {
            "jobs/configs/demo_catalog.toml": str(self.catalog),
            'folder = "runs"': f'folder = "s3://{ROUTING}/runs"',
            '"moa/recordings/demo_backlog.parquet"': f'"s3://{LOGS}/nightly/{RUN}/"\npart_rows=30',
            "moa/router/embedded": ROUTERS,
            'id = "demo"': f'id = "{RUN}"',
            'graded_outcomes = "moa/recordings/graded_outcomes.parquet"': "",
        }.items():
            assert before in text
            text = text.replace(before, after)
        text = re.sub(r"(?s)pool = \[.*?\]", f"pool = {json.dumps(POOL)}", text)
        return f"{text}[explore]\nshare = 0.8\n"

    def _log_queries(self) -> None:
        backlog = self.home / "backlog.parquet"
        pq.write_table(recorded_backlog(QUERIES), backlog, row_group_size=60)
        self.admin.upload_file(str(backlog), LOGS, f"nightly/{RUN}/0.parquet")


def credentials(role: str) -> dict[str, str]:
    """For boto3; the gate knows a role by its access key."""
    return {
        "aws_access_key_id": role, "aws_secret_access_key": "secret", "region_name": "us-east-1"
    }  # fmt: skip


@contextmanager
def cloud(home: Path, upstream: str) -> Iterator[Cloud]:
    """Until the block ends.

    Args:
        home: an empty folder.
        upstream: an S3 server without buckets of these names.
    """
    with s3_gate(upstream, home / "gate") as gate, replay_server() as server:
        there = Cloud(home, upstream, gate, server)
        try:
            yield there
        finally:
            for start in there.started:
                if start.process.poll() is None:
                    start.kill(family=True)
                start.bury()
