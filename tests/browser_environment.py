"""Finds a Chromium for the tests marked `browser`, or installs one:

    .venv/bin/python tests/browser_environment.py

`WINNOW_BROWSER`, or a Chromium or Chrome on the PATH, is used as it is. Otherwise Playwright downloads its own; where that
cannot be reached, and this is root on a Debian, apt-get installs Debian's. Ends with 0 where this machine cannot have one:
`make test` then says so beside each test that needs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """The path of a browser that runs, or None."""
    named = os.environ.get("WINNOW_BROWSER")
    if named:
        return named if Path(named).exists() else None
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or _playwrights_own()


def _playwrights_own() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def main() -> int:
    if browser():
        return 0
    print("installing a Chromium for the tests of reports, once", flush=True)
    words = [sys.executable, "-m", "playwright", "install", "chromium"]
    try:
        subprocess.run(words, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        print("Playwright's own Chromium could not be downloaded in ten minutes.")
    if browser() is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"], capture_output=True, env=quiet)  # fmt: skip
    if browser() is None:
        print(f"No browser could be installed, so its tests will not run. Try again: {sys.executable} {__file__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
