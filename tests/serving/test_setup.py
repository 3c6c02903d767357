"""What is checked of an endpoint before it starts."""

from __future__ import annotations

from pathlib import Path

from moa.router.facts import read_facts
from moa.serving.config import load_endpoint_config
from moa.serving.setup import check_endpoint
from moa.storage.object_store import Folder
from tests.jobs.conftest import ROOT
from tests.router.test_promotions import promote
from tests.serving.on_ray import artifact

CONFIG = ROOT / "jobs/configs/serve.toml"


def test_whatever_is_started_later_loads_the_router_that_was_checked(tmp_path: Path) -> None:
    routers = Folder(str(tmp_path / "routers"))
    first = promote(routers, str(artifact(tmp_path, "candidate")))

    setup = check_endpoint(
        load_endpoint_config(CONFIG, [f"router.artifact={routers.url}"]), environ={}
    )
    second = promote(routers, str(artifact(tmp_path, "its successor")))

    assert second != first
    assert setup.router_version == first
    assert read_facts(setup.config.router.artifact).version == first


def test_a_router_that_was_not_promoted_stays_named_as_it_is() -> None:
    """Other nodes have their installation, with the embedded router, elsewhere."""
    setup = check_endpoint(load_endpoint_config(CONFIG, []), environ={})

    assert setup.config.router.artifact == "moa/router/embedded"
