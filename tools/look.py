"""Look at report pages with a headless browser: pictures of them, and what a person would miss.

    python tools/look.py OUT PAGE.html... [--browser chromium] [--views desktop,phone,dark,print]

Writes OUT/PAGE-desktop.png (1280 wide), -phone.png (390), -dark.png and -print.pdf, and checks in each view: no message
on the console, nothing asked of the network, nothing wider than the window, no text outside its picture, contrast of
text of at least 4.5, tables that sort by a click on a heading, values under the pointer, pictures that can be saved.
Ends with 1 where a check fails, and says so and ends with 0 where there is no browser: it is no part of the tests.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
VIEWS = {"desktop": (1280, "light"), "phone": (390, "light"), "dark": (1280, "dark")}
HIGHEST = 16_000  # pixels of a picture
PRINT = {"printBackground": True, "preferCSSPageSize": True, "paperWidth": 8.27, "paperHeight": 11.69}
CHECKS = Path(__file__).with_name("look.js")


class Browser:
    """A browser that is spoken to through pipes, by the Chrome DevTools Protocol."""

    def __init__(self, program: str, profile: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["sh", "-c", shell, "sh", program, *flags, "--remote-debugging-pipe"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._left, self._asked, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """The result of a call; events that come before it are kept."""
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._asked:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Until an event of this name comes, or has come since the events were forgotten."""
        while not any(one.get("method") == event for one in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        """The value of a script in the page; a promise is awaited."""
        made = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def open_tab(self) -> None:
        """A tab, to which all later calls go."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._out)
        os.close(self._in)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            got = os.read(self._in, 1 << 20)
            assert got, "the browser has ended"
            self._left += got
        one, self._left = self._left.split(b"\0", 1)
        return dict(json.loads(one))


@contextmanager
def opened(program: str) -> Iterator[Browser]:
    """A browser with an empty profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            browser.open_tab()
            yield browser
        finally:
            browser.close()


def look(browser: Browser, page: Path, out: Path, views: list[str]) -> list[str]:
    """Write the pictures of a page; what is wrong with it."""
    wrong = []
    for view in views:
        width, scheme = VIEWS.get(view, VIEWS["desktop"])
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": view == "phone"}
        browser.call("Emulation.setDeviceMetricsOverride", **metrics)
        browser.call(
            "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        browser.events.clear()
        browser.call("Page.navigate", url=page.resolve().as_uri())
        browser.wait_for("Page.loadEventFired")
        file = out / f"{page.parent.name}-{page.stem}-{view}"
        if view == "print":
            data = browser.call("Page.printToPDF", **PRINT)["data"]
            file.with_suffix(".pdf").write_bytes(base64.b64decode(data))
        else:
            _photograph(browser, file.with_suffix(".png"), metrics)
            found = browser.run(CHECKS.read_text(encoding="utf-8"))
            wrong += [f"{page} ({view}): {one}" for one in found]
        wrong += [f"{page} ({view}): {one}" for one in _complaints(browser, page)]
    return wrong


def _photograph(browser: Browser, file: Path, metrics: dict[str, Any]) -> None:
    """A picture of the whole page, then the window as it was."""
    height = min(HIGHEST, browser.run("document.documentElement.scrollHeight"))
    browser.call("Emulation.setDeviceMetricsOverride", **{**metrics, "height": height})
    file.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"]))
    browser.call("Emulation.setDeviceMetricsOverride", **metrics)


def _complaints(browser: Browser, page: Path) -> Iterator[str]:
    """Messages of the console, and what was asked of the network."""
    for event in browser.events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            yield f"an exception: {given['exceptionDetails'].get('text')}"
        elif method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            yield f"on the console: {given['entry']['text']}"
        elif method == "Network.requestWillBeSent":
            url = str(given["request"]["url"])
            if url != page.resolve().as_uri() and not url.startswith(("data:", "blob:")):
                yield f"asks the network for {url}"


def main() -> int:
    """Check the pages. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    parser.add_argument("--views", default="desktop,phone,dark,print")
    given = parser.parse_args()
    if not given.browser:
        print(f"there is no browser here ({', '.join(BROWSERS)}): the pages were not looked at")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    with opened(given.browser) as browser:
        wrong = [one for page in given.pages for one in look(browser, page, given.out, given.views.split(","))]
    print(
        *wrong or [f"{len(given.pages)} pages looked at: nothing is wrong; the pictures are in {given.out}"], sep="\n"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
