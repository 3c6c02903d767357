"""An address in a request is the vendor's to fetch: nobody here asks for it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest

from tests.serving.conftest import Serving

Start = Callable[..., Awaitable[Serving]]


@pytest.mark.parametrize("model", ["openai/gpt-4o", "google/gemini-1.5-pro", "moa"])
async def test_an_images_address_is_never_asked_for(start: Start, model: str) -> None:
    served = await start()
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.setblocking(False)
        image = {"url": f"http://127.0.0.1:{inside.getsockname()[1]}/latest/meta-data"}
        parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": image}]
        asked = {"model": model, "messages": [{"role": "user", "content": parts}]}

        status, _, _ = await served.post("/chat/completions", asked)

        assert status == (
            400 if model.startswith("google") else 200
        )  # Google takes none by address
        with pytest.raises(BlockingIOError):  # nobody is waiting
            inside.accept()
