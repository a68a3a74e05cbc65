"""Render HTML pages from templates that escape everything they are given; embed images in them."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.visualisation import charts

TEMPLATES = Path(__file__).parent / "templates"

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals["chart_style"] = Markup(charts.STYLE)


def render(template: str, **values: Any) -> str:
    """Render a page from its template; text in ``values`` is escaped, `Markup` is not."""
    return _ENVIRONMENT.get_template(template).render(**values)


def data_uri(content: bytes, kind: str) -> str:
    """Encode an image file as an address that needs no network; ``kind`` is such as ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
