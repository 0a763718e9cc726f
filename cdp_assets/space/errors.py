"""How a failure is told: its cause without the values that engines quote."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"'(?:[^']|'')*'")


def cause(error: BaseException) -> str:
    """First line of an error with every single-quoted literal blanked: engines quote row values there."""
    lines = str(error).splitlines() or [""]
    text = _QUOTED.sub("'…'", lines[0]).strip()
    return text or type(error).__name__
