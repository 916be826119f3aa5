"""The `winnow` command. Each command parses, calls one documented Python function and prints what it returns.

Nothing heavy is imported until a command needs it: `winnow --help` has to answer at once. Results go to standard
output, everything said on the way to standard error. Exit codes: 0 done, 1 something that the user can put right, 2 a
wrong recipe or command line, 130 interrupted.
"""

from __future__ import annotations

from curation.commands import app


def main() -> None:
    """Entry point of the `winnow` command."""
    app(prog_name="winnow")


if __name__ == "__main__":
    main()
