"""Take a plot out of a run's report page as a file of its own.

    raykd demo
    python -m tools.demo_picture runs/demo languages docs/images/demo.svg

The page's plots take the page's text colour and have no background. In a file of its own a plot gets both, so that it
can be read in light and in dark surroundings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STYLE = "svg { color: #1f2328; background: #ffffff }"


def plot_of(page: str, name: str) -> str:
    """Return one plot of a report page as the text of an SVG file.

    Args:
        page: The text of report.html.
        name: The id of the plot's figure in the page.

    Raises:
        SystemExit: The page has no such plot.
    """
    figures = dict(re.findall(r'<figure id="([\w-]+)".*?(<svg.*?</svg>)', page, flags=re.DOTALL))
    if name not in figures:
        sys.exit(f"no plot is called {name}; the page has {', '.join(figures)}")
    text = figures[name].replace("var(--paper, white)", "white")
    text = re.sub(r"(<svg[^>]*>)", rf'\1<style type="text/css">{STYLE}</style>', text, count=1)
    # Three decimals of a point are a hundredth of a pixel.
    text = re.sub(r"(-?\d+\.\d{3})\d+", r"\1", text)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + re.sub(r"[ \t]+\n", "\n", text) + "\n"


if __name__ == "__main__":
    folder, name, target = sys.argv[1:]
    Path(target).write_text(
        plot_of((Path(folder) / "report.html").read_text(encoding="utf-8"), name), encoding="utf-8"
    )
