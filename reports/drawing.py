"""Draws Vega-Lite figures: one JSON line in, one JSON line with the SVG out ("" for a figure that cannot be drawn).

Run as a process of its own by `reports.charts`. Labels come from data, and a drawer that dies of one (vl-convert ends the
whole process where it panics) must not take a build with it.
"""

from __future__ import annotations

import json
import sys

VEGA_LITE = "5.21"


def main() -> None:
    """Draw until standard input ends."""
    import vl_convert

    for line in sys.stdin:
        try:
            svg = vl_convert.vegalite_to_svg(line, vl_version=VEGA_LITE)
        except ValueError as error:
            print(error, file=sys.stderr)
            svg = ""
        print(json.dumps(svg), flush=True)


if __name__ == "__main__":
    main()
