"""Pages run in headless Chromium, where this machine has one."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Seen(NamedTuple):
    """A page's DOM after it has run, and what it wrote to the console."""

    dom: str
    console: list[str]


def run_page(path: Path, *flags: str) -> Seen:
    """Run a page in headless Chromium; skips the test where there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine; the page is not run")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
        "--disable-quic", f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=20000",
        "--enable-logging=stderr", *flags, "--window-size=1280,2400", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    try:
        done = subprocess.run([chromium, *options], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium did not finish within 2 minutes")
    if "<html" not in done.stdout:
        pytest.skip(f"Chromium did not start: {done.stderr[-200:]}")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    noise = ("GL Driver Message", "willReadFrequently")
    return Seen(done.stdout, [line for line in console if not any(word in line for word in noise)])
