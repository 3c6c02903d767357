"""The nightly job on Ray: a graph that decides, actors that dispatch what was decided."""

import os

# Read when Ray is first imported: a thread that Ray Data still has when the run's Ray is shut down
# must not start another one.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
