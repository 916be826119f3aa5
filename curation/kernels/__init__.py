"""Array kernels: numbers out of Arrow buffers, nothing else.

Public modules, each useful on its own: `minhash` (near-duplicate text), `hamming` (near-duplicate pictures),
`containment` (word n-gram overlap with a reference set) and `coverage` (few rows that cover many). They take Arrow or
numpy arrays and give back numpy arrays and Arrow tables: no files but scratch files where memory is bounded, no
configuration, no stages.

The names that start with an underscore hold numba code. They are imported when a kernel is first used, so importing
this package costs nothing; machine code is kept in a cache directory (see `_jit`).
"""
