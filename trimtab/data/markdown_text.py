"""Text that people wrote, such as column names and categories, inside Markdown pages."""

from __future__ import annotations

import re


def as_cell(value: object) -> str:
    """*value* as a cell of a Markdown table: on one line, with the signs of Markdown and HTML escaped.

    >>> as_cell("a|b <i>")
    'a\\\\|b \\\\<i\\\\>'
    """
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", " ".join(str(value).split()) or " ")
