"""What is counted of the endpoint. Names and labels; never a prompt, a completion or a key."""

from __future__ import annotations

from moa.cluster.meters import Registry

SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Meters:
    """All of them."""

    def __init__(self, registry: Registry) -> None:
        counter, histogram = registry.counter, registry.histogram
        by_model = ("tenant", "model")
        self.requests = counter("moa_requests", "By what came of them", ("path", "status"))
        self.decisions = counter("moa_decisions", "Who was chosen, and why", ("model", "rule"))
        self.tokens = counter("moa_tokens", "Billed tokens", (*by_model, "kind"))
        self.cost_usd = counter("moa_cost_usd", "The vendors' bill, in USD", by_model)
        self.fallbacks = counter("moa_fallbacks", "Models that were given up", ("model", "error"))
        self.left = counter("moa_clients_left", "Clients that hung up before the end", ("model",))
        self.first_piece_s = histogram(
            "moa_first_piece_seconds", "From a request to the first piece", ("model",), SECONDS
        )
        self.total_s = histogram("moa_request_seconds", "Of a whole request", ("model",), SECONDS)
        self.router_s = histogram("moa_router_seconds", "Of scoring and deciding", (), SECONDS)
        self.wait_s = histogram("moa_turn_seconds", "Waited for a turn", ("model",), SECONDS)
        self.novelty = histogram("moa_novelty", "Of routed queries", (), SHARES)
        self.waiting = registry.gauge("moa_waiting", "Requests that wait for a turn", ("model",))
        self.in_flight = registry.gauge("moa_calls_in_flight", "Calls that are out", ())
