"""The frame of every page: frame.html and style.css, which a page's own template extends; one file without links."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, title: str, kind: str, package: str, **values: Any) -> str:
    """The page of `template`, names in `values` escaped; `kind` stands above its heading, `package` is our version."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(title=title, kind=kind, package=package, **values)
