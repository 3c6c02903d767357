"""The online endpoint: OpenAI's API in front of the router, the policy and the vendors."""

import os

# Read when numpy is first imported. One query at a time is scored: on two cores that others use,
# the second thread of a matrix product made 1 ms into 60 to 120.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
