"""The endpoint, asked by real clients; vendors are on localhost."""

import os

# As `moa.serving.setup.ray_environ` has it; read when Serve is first imported.
for _name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"):
    os.environ.setdefault(_name, "1")
