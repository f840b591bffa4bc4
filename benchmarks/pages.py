"""How large a report page is, and how fast Chromium opens it.

    python -m benchmarks.pages runs/demo/report.html --width 1300 --repeats 5

Prints the size of the file and the time from opening it to the first paint, to the end of loading and to the last chart.
A reader waits for the first paint; charts are drawn one after another behind it. Times are the least of several starts
of a fresh browser.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
_numbers = itertools.count(1)
TIMES = """(() => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {paint: paint ? paint.startTime : null, load: performance.getEntriesByType("navigation")[0].loadEventEnd};
})()"""
DRAW = """(async () => {
  const drawn = () => document.querySelectorAll(".chart svg").length;
  const wanted = document.querySelectorAll("figure").length;
  while (drawn() < wanted && performance.now() < 20000) await new Promise(resolve => setTimeout(resolve, 5));
  return {seconds: performance.now() / 1000, drawn: drawn(), wanted};
})()"""


@dataclass(frozen=True)
class Page:
    """A page that is open in a browser.

    Attributes:
        socket: The browser's.
        problems: Errors of scripts and refusals of the page's policy.
    """

    socket: aiohttp.ClientWebSocketResponse
    problems: list[str]

    async def send(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the browser and return its answer."""
        number = next(_numbers)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json(timeout=30)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(str(message["params"])[:500])
            if message.get("id") == number:
                found: dict[str, Any] = message.get("result", {})
                return found

    async def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression gives in the page."""
        found = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return found["result"].get("value")


@contextlib.asynccontextmanager
async def open_page(path: Path, *, width: int = 1300, scheme: str = "light") -> AsyncIterator[Page]:
    """Open a page in a fresh headless browser.

    Args:
        path: The page.
        width: Of the window, in pixels.
        scheme: What the reader prefers: light or dark.
    """
    assert BROWSER is not None, "needs Chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
            f"--user-data-dir={folder}", f"--window-size={width},900", "about:blank",
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(await _find_socket(session, Path(folder)), max_msg_size=0) as socket,
            ):
                page = Page(socket, [])
                for domain in ("Page", "Runtime", "Log"):
                    await page.send(f"{domain}.enable")
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                await page.send("Emulation.setEmulatedMedia", features=features)
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
                await page.send("Emulation.setDeviceMetricsOverride", **size)
                await page.send("Page.navigate", url=path.resolve().as_uri())
                while (
                    await page.evaluate("document.readyState") != "complete"
                    or not (await page.evaluate(TIMES))["paint"]
                ):
                    await asyncio.sleep(0.05)
                yield page
        finally:
            browser.terminate()
            browser.wait(10)


async def _find_socket(session: aiohttp.ClientSession, folder: Path) -> str:
    """Wait until the browser says where it listens, and return the address of its page."""
    for _ in range(300):
        with contextlib.suppress(OSError, aiohttp.ClientError, StopIteration, ValueError, IndexError):
            port = (folder / "DevToolsActivePort").read_text().split()[0]
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = await answer.json()
            return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
        await asyncio.sleep(0.1)
    raise SystemExit("the browser did not start within 30 s")


async def measure(path: Path, width: int) -> tuple[float, float, float, int]:
    """Return the seconds to the first paint, to the end of loading, to the last chart, and the number of charts."""
    async with open_page(path, width=width) as page:
        times = await page.evaluate(TIMES)
        drawn = await page.evaluate(DRAW)
        if page.problems or drawn["drawn"] < drawn["wanted"]:
            raise SystemExit(f"{path}: {drawn['drawn']} of {drawn['wanted']} charts; {page.problems}")
        return times["paint"] / 1000, times["load"] / 1000, drawn["seconds"], drawn["drawn"]


def main() -> None:
    """Print a line for each page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    if BROWSER is None:
        raise SystemExit("needs Chromium on the path")
    print(f"{'page':40} {'MB':>6} {'charts':>7} {'first paint s':>14} {'loaded s':>9} {'last chart s':>12}")
    for path in asked.pages:
        found = [asyncio.run(measure(path, asked.width)) for _ in range(asked.repeats)]
        paint, load, draw, _ = map(min, zip(*found, strict=True))
        size = path.stat().st_size / 1e6
        print(
            f"{str(path)[-40:]:40} {size:6.2f} {found[0][3]:7d} {paint:14.2f} {load:9.2f} {draw:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
