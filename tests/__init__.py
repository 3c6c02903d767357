"""The tests; folders mirror `moa/`.

One thread for matrix products: they are small, and machines are shared. Where others keep the cores
busy, two threads of OpenBLAS wait for one another: a test of 2 s took 30 s.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
