"""Names of columns and tables from names that people gave, in Segment's warehouse schema."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

_MAX_NAME = 127
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@lru_cache(maxsize=10_000)
def snake_case(name: str) -> str:
    """``Card Withdrawal`` and ``cardWithdrawal`` as ``card_withdrawal``; never empty, never starting with a digit."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", plain).lower()).strip("_")
    if not slug:
        return "_" + hashlib.sha256(name.encode()).hexdigest()[:8]
    if slug[0].isdigit():
        slug = "_" + slug
    if len(slug) > _MAX_NAME:
        slug = slug[: _MAX_NAME - 9] + "_" + hashlib.sha256(slug.encode()).hexdigest()[:8]
    return slug
