"""Tests, one file a module and one a pass; graphs.py holds the networks that they share.

They run side by side, so BLAS gets one thread, here and in the processes that tests start.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported, or it is too late
