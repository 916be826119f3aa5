"""What workers need, imported once in the process that they are forked from (see `curation.engines.local`).

A fork keeps one thread. Importing these starts none but jemalloc's, which knows how to be forked; polars, and the stages
that use it, are left to the workers because it starts one of its own. tests/engine/test_local.py holds this to account.
"""

import os

# One worker is one core: the libraries' own threads would only get in each other's way.
for _variable in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import duckdb  # noqa: E402, F401
import numba  # noqa: E402, F401

from curation import exports, ingest, materialize  # noqa: E402, F401
from curation.engines import rows  # noqa: E402, F401

exports.load()
