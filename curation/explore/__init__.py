"""`winnow explore`: a web page on this machine alone, over whole versions: filter rows, look at one, ask in SQL.

`desk` asks DuckDB, read-only and with a time limit; `web` serves the pages. Nothing is written, nothing but GET is answered,
and only to this machine's own browser: see `web` for what is checked.
"""

from curation.explore.web import serve

__all__ = ["serve"]
