"""Where the templates are, and what they may call."""

import jinja2

from vibray.report import formats


def environment() -> jinja2.Environment:
    """Every text is escaped; a name that is not given is an error."""
    # select_autoescape() looks at the name's ending and would leave .j2 unescaped
    loader = jinja2.PackageLoader("vibray", "report/templates")
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= formats.FILTERS
    return made
