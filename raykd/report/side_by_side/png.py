"""Turn a chart into a PNG, for a README or a message.

Decision record: vl-convert draws the same specification as the page, without a browser. It is 84 MB, so it is an extra
(``raykd[png]``) and nothing that a run needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raykd.errors import ConfigError
from raykd.report.charts import CONFIG, Spec

VEGA_LITE = "6.4"
"""The version in ``library/``."""
INK, PAPER = "#1c1d1f", "#ffffff"
SCALE = 2.0
"""Pixels of the PNG for a pixel of the page."""


def write_png(spec: Spec, path: Path, title: str, subtitle: str = "") -> Path:
    """Draw a chart as a PNG on white, with a title, and return its path.

    Raises:
        ConfigError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise ConfigError(
            "a PNG cannot be drawn here",
            got="vl-convert-python is not installed",
            wanted="the extra raykd[png]",
            next_step="pip install 'raykd[png]'; report.html shows the same chart without it",
        ) from None
    head = {"text": title, **({"subtitle": _wrap(subtitle)} if subtitle else {})}
    padding = {"left": 16, "right": 16, "top": 14, "bottom": 14}
    whole = _colour({**spec, "title": head, "padding": padding, "config": {**CONFIG, "background": PAPER}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(vl_convert.vegalite_to_png(whole, vl_version=VEGA_LITE, scale=SCALE))
    return path


def _wrap(text: str, width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def _colour(part: Any) -> Any:
    """Return a specification with plain colours for those of the page."""
    if isinstance(part, dict):
        return {key: _colour(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_colour(value) for value in part]
    return (
        {"currentColor": INK, "var(--paper, white)": PAPER}.get(part, part) if isinstance(part, str) else part
    )
