"""Read charts and pages in tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from raykd.report.charts import CONFIG
from raykd.report.html import read_asset

NODE = shutil.which("node")
CHECK = """
const {charts, cases, config} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const library = new Function(charts + "; return charts")();
const found = {};
(async () => {
  for (const [name, spec] of Object.entries(cases)) {
    const warnings = [];
    const logger = {level: () => logger, error: m => warnings.push(m), warn: m => warnings.push(m), info: () => logger, debug: () => logger};
    const view = new library.View(library.parse(library.compile(spec, {config, logger}).spec, null, {ast: true}),
      {expr: library.expressionInterpreter, renderer: "none"});
    await view.runAsync();
    found[name] = {warnings, svg: await view.toSVG()};
  }
  console.log(JSON.stringify(found));
})();
"""


def read_rows(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rows of data of a chart."""
    own = spec.get("data", {}).get("values", [])
    parts = [part for key in ("layer", "hconcat", "vconcat", "concat") for part in spec.get(key, [])]
    if isinstance(spec.get("spec"), dict):
        parts.append(spec["spec"])
    return [*own, *(row for part in parts for row in read_rows(part))]


def draw_in_node(figures: Mapping[str, tuple[dict[str, Any], str]]) -> dict[str, dict[str, Any]]:
    """What the page's own library makes of charts: the SVG of each, and its warnings."""
    cases = {name: spec for name, (spec, _) in figures.items()}
    given = {"charts": read_asset("library/charts.min.js"), "cases": cases, "config": CONFIG}
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", CHECK],
        input=json.dumps(given, allow_nan=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def run_in_node(body: str) -> Any:
    """What a function with this body returns."""
    assert NODE is not None
    call = f"console.log(JSON.stringify((() => {{ {body} }})()))"
    done = subprocess.run([NODE, "-e", call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def strip_scripts(page: str) -> str:
    """A page without the text of its scripts and charts."""
    return re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
