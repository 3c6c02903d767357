from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from moa.request import ChatRequest, Message
from moa.serving.conversations import Conversations
from moa.serving.shared_actors import shared_conversations
from tests.serving.conftest import config_of

ASKED = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hello"}]}).messages
ANSWER = Message(role="assistant", content="Hi")


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_one_replica_and_one_that_forgets_share_nothing() -> None:
    assert shared_conversations(config_of()) is None
    assert shared_conversations(config_of("serve.max_replicas=2", "stickiness.mode=off")) is None


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
async def test_a_conversation_is_known_to_another_replica_by_the_actor() -> None:
    config = config_of("serve.max_replicas=2")
    first, second = (Conversations(10, shared_conversations(config), ask_s=60) for _ in range(2))
    await first.begun("a", [[*ASKED, ANSWER, *ASKED]])  # the actor has started
    first.remember("a", ASKED, ANSWER, "openai/gpt-4o")
    await first.close()

    (found,) = await second.begun("a", [[*ASKED, ANSWER, *ASKED]])

    assert found is not None
    assert found.model == "openai/gpt-4o"
