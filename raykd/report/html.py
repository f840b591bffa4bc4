"""Write a page as one HTML file that needs nothing else.

Decision record: a static file with its style, charts and scripts inside can be mailed, kept as an artifact and read in
ten years. It asks no server for anything, so it also works on a cluster without a way out and in MLflow's viewer.
Jinja's autoescape is on, because names, texts and settings come from data. Two scripts are in the file: the library of
charts, where the page has one, and `page.js`, which sorts and filters tables. The page's policy allows nothing but
these two texts, by their hashes, so a name with HTML in it cannot run; the library evaluates no text as a program.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.report.charts import CONFIG, Charts

if TYPE_CHECKING:
    from markupsafe import Markup

CONTENTS = "<!-- contents -->"
"""Where the table of contents is put."""
LEAST_SECTIONS = 3
"""Sections of a page that has a table of contents."""


@cache
def read_asset(name: str) -> str:
    """Return a file of this folder."""
    return files("raykd.report").joinpath(name).read_text(encoding="utf-8")


def dump_json(tree: object) -> Markup:
    """Return plain data as JSON that may stand in a page: no text in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def list_contents(page: str) -> list[tuple[str, str]]:
    """Return (id, title) of each section of a page."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page, flags=re.DOTALL)
    return [(name, re.sub(r"<[^>]*>", "", title)) for name, title in found]


def write_html(path: Path, template: str, charts: Charts | None = None, **values: object) -> Path:
    """Write a page.

    Args:
        path: The file.
        template: A template that extends ``base.html.j2``.
        charts: Charts for the template's ``draw``.
        values: What else the template shows.

    Returns:
        The path.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raykd", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    scripts = [read_asset("library/charts.min.js")] if charts else []
    scripts.append(read_asset("page.js"))
    text = environment.get_template(template).render(
        figures={name: (dump_json(spec), caption) for name, (spec, caption) in (charts or {}).items()},
        chart_config=dump_json(CONFIG),
        scripts=[Markup(script) for script in scripts],
        policy=" ".join(f"'sha256-{hash_script(script)}'" for script in scripts),
        **values,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_insert_contents(text), encoding="utf-8")
    return path


def hash_script(script: str) -> str:
    """Return the digest by which a page's policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _insert_contents(page: str) -> str:
    sections = list_contents(page)
    if len(sections) < LEAST_SECTIONS:
        return page
    links = "".join(f'<a href="#{html.escape(name)}">{title}</a>' for name, title in sections)
    return page.replace(CONTENTS, f'<nav aria-label="Contents">{links}</nav>', 1)
