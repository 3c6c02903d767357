"""Airflow 3 submits each night's run to a Ray cluster and waits for it; the work is done there.

The run's id is made of the logical date: Airflow's retries, a second run of that date and a
scheduler that was killed all meet the same submission. Both files of this folder belong into the
DAGs' folder, and where tasks run `pip install 'ray[default]==2.60.*'`; nothing else of ours.

    MOA_RAY_ADDRESS    http://HEAD:8265, of a cluster whose workers have the keys, and /app
    MOA_QUERY_LOG      s3://example-llm-logs/nightly: a night's queries are in nightly-DATE/ below
    RAY_AUTH_MODE      token, and RAY_AUTH_TOKEN the cluster's, by whatever holds secrets there
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from ray_submission import entrypoint, route_night


@dag(
    schedule="0 22 * * *",
    start_date=datetime(2026, 11, 26, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
)
def moa_nightly_backlog() -> None:
    """One task a night."""

    @task(execution_timeout=timedelta(hours=22))
    def route(day: str) -> None:
        run_id = f"nightly-{day}"
        command = entrypoint(run_id, query_log=os.environ["MOA_QUERY_LOG"])
        route_night(run_id, command, address=os.environ["MOA_RAY_ADDRESS"])

    route("{{ ds }}")


moa_nightly_backlog()
