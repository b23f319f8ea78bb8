"""A real browser: the system's Chromium, headless."""

import os
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright


def find_chromium():
    """Return Chromium's path; skip the test if there is none, or fail on CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        why = "needs Chromium: apt install chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return found


@contextmanager
def open_browser():
    """Yield a browser, in which every error of a page's script fails the test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context()
        errors = []
        context.on("weberror", lambda error: errors.append(error.error))
        try:
            yield context
        finally:
            browser.close()
        assert errors == []
