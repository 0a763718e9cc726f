"""How advertising systems want people's particulars before they are hashed: one form for each, so that the same person hashes alike.

Each function returns '' for what says nothing; the caller leaves that cell empty rather than failing the record. Values that already are
a SHA-256 in hex pass unchanged. The rules are the vendors' [D]; where production connectors disagree with them [C], the vendors win.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any, Final

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_COUNTRY: Final = re.compile(r"[a-z]{2}")


def is_hash(value: str) -> bool:
    return _HASH.fullmatch(value) is not None


def sha256(value: str) -> str:
    """Lower-case hex of a normalised value; '' stays '', and a hash stays what it is."""
    return value if not value or is_hash(value) else hashlib.sha256(value.encode()).hexdigest()


def email(value: Any) -> str:
    """Trimmed, lower case; '' for what is no address."""
    text = _text(value)
    return text if is_hash(text) or re.fullmatch(r"[^@\s]+@[^@\s]+", text) else ""


def phone(value: Any) -> str:
    """Digits with the country code, without leading zeros; one of zeros only says nothing."""
    text = _text(value)
    return text if is_hash(text) else re.sub(r"\D", "", text).lstrip("0")


def name(value: Any) -> str:
    """Lower case without punctuation; letters of every script stay."""
    text = _text(value)
    return text if is_hash(text) else "".join(c for c in text if unicodedata.category(c)[0] != "P").strip()


def place(value: Any) -> str:
    """A city or a region: letters only, lower case."""
    text = _text(value)
    return text if is_hash(text) else "".join(c for c in text if c.isalpha())


def postcode(value: Any) -> str:
    """Lower case without spaces, cut at the dash: of an American code the first five digits."""
    text = _text(value)
    return text if is_hash(text) else re.sub(r"\s", "", text).split("-")[0]


def country(value: Any) -> str:
    """ISO 3166 alpha-2 in lower case; anything else says nothing."""
    text = _text(value)
    return text if is_hash(text) or _COUNTRY.fullmatch(text) else ""


def gender(value: Any) -> str:
    """m or f; anything else says nothing."""
    text = _text(value)
    return text if is_hash(text) else {"m": "m", "male": "m", "f": "f", "female": "f"}.get(text, "")


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().lower()
