"""Write a page as one HTML file that needs nothing else.

Decision record: a static file with its style and drawings inside can be mailed, kept as an artifact and read in ten
years. It asks no server for anything, so it also works on a cluster without a way out. Jinja's autoescape is on,
because names, texts and settings come from data; the drawings alone are trusted, since they are made here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

Pictures = Mapping[str, tuple[str, str]]
"""Name of a plot to its SVG and its caption."""


def add_captions(drawn: Mapping[str, str | None], captions: Mapping[str, str]) -> Pictures:
    """Return the plots that there is data for, each with its caption."""
    return {name: (svg, captions[name]) for name, svg in drawn.items() if svg is not None}


def render_template(name: str, **values: object) -> str:
    """Return a template of this folder, filled in."""
    import jinja2

    loader = jinja2.PackageLoader("raykd", "report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name).render(**values)


def render_sort_script() -> dict[str, object]:
    """Return the script that sorts tables by a click, and its digest for the page's policy, as values of a page."""
    from markupsafe import Markup

    script = render_template("sort.js.j2")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_hash": Markup(f"sha256-{digest}")}


def write_html(path: Path, template: str, pictures: Pictures | None = None, **values: object) -> Path:
    """Write a page.

    Args:
        path: The file.
        template: A template that extends ``base.html.j2``.
        pictures: Plots for the template's ``draw``.
        values: What else the template shows.

    Returns:
        The path.
    """
    from markupsafe import Markup

    figures = {name: (Markup(svg), caption) for name, (svg, caption) in (pictures or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_template(template, figures=figures, **values), encoding="utf-8")
    return path
