"""A page in a browser: charts are drawn with values on hover, tables are sorted and filtered, nothing runs over the edge."""

import asyncio

import pytest

from benchmarks.pages import BROWSER, DRAW, open_page
from raykd.report.sweeps.page import write_sweep_page
from tests.made_trials import made_sweep

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
EVIL = "<script>document.title = 'owned'</script>"
COLUMN = """[...document.querySelector("#table ~ .scroll").querySelectorAll("tbody tr")]
  .filter(row => !row.hidden).map(row => row.cells[{}].textContent)"""
FILTER = """(text => { const box = document.querySelector("#table ~ .filter input");
  box.value = text; box.dispatchEvent(new Event("input")); })"""
POINT = """(() => { const box = document.querySelector("#objective svg path[aria-roledescription=point]").getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2]; })()"""


def test_a_page_of_a_sweep_in_a_browser(tmp_path):
    report = made_sweep(9, mark=EVIL)
    path = write_sweep_page(report, tmp_path / "report.html")
    asyncio.run(look(path, report))


async def look(path, report):
    backgrounds = []
    for width, scheme in ((1300, "light"), (400, "dark")):
        async with open_page(path, width=width, scheme=scheme) as page:
            drawn = await page.evaluate(DRAW)
            assert drawn["drawn"] == drawn["wanted"] > 3 and page.problems == []
            assert await page.evaluate("document.title") != "owned"
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            backgrounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await page.evaluate("document.querySelectorAll('#table ~ .scroll th button')[2].click()")
            shown = await page.evaluate(COLUMN.format(2))
            known = [float(text) for text in shown if text != "–"]
            assert known == sorted(known) and len(shown) == len(report.trials)
            await page.evaluate(f"{FILTER}('stopped')")
            wanted = sorted(t.name for t in report.trials if t.status == "stopped")
            assert sorted(await page.evaluate(COLUMN.format(0))) == wanted
            await page.evaluate("document.querySelector('#objective').scrollIntoView()")
            x, y = await page.evaluate(POINT)
            for step in (3, 0):
                await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y + step)
            await asyncio.sleep(0.3)
            tip = await page.evaluate("document.getElementById('vg-tooltip-element')?.innerText ?? ''")
            assert any(t.name in tip for t in report.trials) and "score" in tip
    assert backgrounds[0] != backgrounds[1]
