"""Ray's own launcher on a cluster's file, as `ray up` begins; prints what it makes of it as JSON.

    python -m tests.deploy.ray_launcher prepare FILE
    python -m tests.deploy.ray_launcher start FILE      AWS only: against AWS_ENDPOINT_URL

`start` starts a node of each kind, looks at them and ends them, and tells what was asked of AWS.
In a process of its own, as Ray and boto3 keep what they were told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from ray.autoscaler._private.aws.config import bootstrap_aws  # noqa: TID251
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: TID251
from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: TID251

BOOTSTRAP: Any = bootstrap_aws  # neither has types
PROVIDER: Any = AWSNodeProvider
TAGS = {"ray-node-kind": "worker", "ray-launch-config": "x", "ray-user-node-type": "any"}


def prepared(path: str) -> dict[str, Any]:
    """A cluster's file with Ray's defaults, if Ray takes it."""
    config: dict[str, Any] = prepare_config(yaml.safe_load(Path(path).read_text()))
    validate_config(config)
    return config


def started(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray sets up, runs and asks for; the head's asks are those after the set-up."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def note(model: Any, params: Any, **_: object) -> None:  # noqa: ANN401 - botocore's own
        asked.append((f"{model.service_model.service_name}:{model.name}", params["body"]))

    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register("before-call", note)
    config = BOOTSTRAP(config)
    setting_up = [name for name, _ in asked]
    asked.clear()
    provider: Any = PROVIDER(config["provider"], config["cluster_name"])
    for kind in config["available_node_types"].values():
        provider.create_node(kind["node_config"], TAGS, 1)
    nodes = provider.non_terminated_nodes({})
    for node in nodes:
        provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(nodes)
    return {"config": config, "set_up": setting_up, "asked": asked, "nodes": len(nodes)}


if __name__ == "__main__":
    found = prepared(sys.argv[2])
    document = found if sys.argv[1] == "prepare" else started(found)
    sys.stdout.write(json.dumps(document, default=str))
