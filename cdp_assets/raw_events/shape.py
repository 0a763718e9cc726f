"""Shapes of JSON lines: what is left of a line without its text values and the digits of its numbers.

Lines of one shape have the same keys at the same places, with values of the same types. So whatever depends on these alone needs
to be looked at once for each shape and not once for each line. Shapes are cut out of a whole chunk of lines with array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_QUOTE, _BACKSLASH, _COLON, _MINUS, _POINT, _ZERO, _NINE, _NEWLINE = b'"\\:-.09\n'
# More digits than this in a row are not the same number in every parser.
_MAX_DIGITS = 15


@dataclass(frozen=True)
class Shapes:
    """``code``: shape of each line, an index into ``distinct``: (what stands outside of texts, keys) as bytes.

    ``plain``: lines whose numbers and escapes every parser reads and writes the same way.
    """

    code: np.ndarray
    distinct: list[tuple[bytes, bytes]]
    plain: np.ndarray


def shapes_of(data: np.ndarray, offsets: np.ndarray) -> Shapes:
    """The shapes of the lines ``data[offsets[i]:offsets[i + 1]]``; each ends in its only newline."""
    plain = np.ones(len(offsets) - 1, bool)
    quotes = _quotes(data, offsets, plain)
    first = np.searchsorted(quotes, offsets)
    odd = np.diff(first) % 2 == 1
    if odd.any():
        # A text without an end: such a line must not turn its neighbours inside out.
        plain &= ~odd
        quotes = quotes[~np.repeat(odd, np.diff(first))]
        first = np.searchsorted(quotes, offsets)
    opens, closes = quotes[0::2], quotes[1::2]
    is_key = data[closes + 1] == _COLON
    strings = first // 2
    outside, outside_offsets = _outside(data, offsets, opens, closes, strings)
    keys, key_offsets = _keys(data, opens, closes, is_key, strings)
    _judge_numbers(outside, outside_offsets, plain)
    gaps, gap_offsets = _without_digits(outside)
    left = _binary(gaps, gap_offsets).dictionary_encode()
    right = _binary(keys, key_offsets).dictionary_encode()
    pairs = left.indices.to_numpy().astype(np.int64) * len(right.dictionary) + right.indices.to_numpy()
    distinct, code = np.unique(pairs, return_inverse=True)
    texts = [
        (left.dictionary[int(pair) // len(right.dictionary)].as_py(), right.dictionary[int(pair) % len(right.dictionary)].as_py())
        for pair in distinct
    ]
    return Shapes(code, texts, plain)


def _quotes(data: np.ndarray, offsets: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Places of the quotes that begin or end a text. Lines with escaped control characters are marked as not plain."""
    quotes = np.flatnonzero(data == _QUOTE)
    slashes = np.flatnonzero(data == _BACKSLASH)
    if not len(slashes):
        return quotes
    order = np.arange(len(slashes))
    begins = np.maximum.accumulate(np.where(np.diff(slashes, prepend=-2) != 1, order, 0))
    escapes = slashes[(order - begins) % 2 == 0]
    escaped = escapes + 1
    here = escapes[escapes + 4 < len(data)]
    control = (data[here + 1] == ord("u")) & (data[here + 2] == _ZERO) & (data[here + 3] == _ZERO)
    control &= np.isin(data[here + 4], (ord("0"), ord("1"), ord("7")))
    plain[np.searchsorted(offsets, here[control], side="right") - 1] = False
    return quotes[~np.isin(quotes, escaped, assume_unique=True)]


def _outside(
    data: np.ndarray, offsets: np.ndarray, opens: np.ndarray, closes: np.ndarray, strings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What stands outside of texts, with the quotes."""
    bounds = np.empty(2 * len(opens) + 2, np.int64)
    bounds[0], bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = 0, opens + 1, closes, len(data)
    flags = np.zeros(2 * len(opens) + 1, bool)
    flags[0::2] = True
    kept = np.repeat(flags, np.diff(bounds))
    inner = np.concatenate([[0], np.cumsum(closes - opens - 1)])
    return data[kept], offsets - inner[strings]


def _keys(
    data: np.ndarray, opens: np.ndarray, closes: np.ndarray, is_key: np.ndarray, strings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The keys, each with the quote that ends it."""
    bounds = np.empty(2 * len(opens) + 2, np.int64)
    bounds[0], bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = 0, opens + 1, closes + 1, len(data)
    flags = np.zeros(2 * len(opens) + 1, bool)
    flags[1::2] = is_key
    kept = np.repeat(flags, np.diff(bounds))
    lengths = np.concatenate([[0], np.cumsum(np.where(is_key, closes - opens, 0))])
    return data[kept], lengths[strings]


def _judge_numbers(outside: np.ndarray, offsets: np.ndarray, plain: np.ndarray) -> None:
    """Marks lines with long numbers, tiny fractions, or minus zero: parsers write them in different ways."""
    padded = np.concatenate([outside, np.zeros(4, np.uint8)])
    digits = np.flatnonzero((outside >= _ZERO) & (outside <= _NINE))
    odd = [digits[_MAX_DIGITS:][digits[_MAX_DIGITS:] - digits[:-_MAX_DIGITS] == _MAX_DIGITS]] if len(digits) > _MAX_DIGITS else []
    points = np.flatnonzero(outside == _POINT)
    odd.append(points[(padded[points + 1] == _ZERO) & (padded[points + 2] == _ZERO) & (padded[points + 3] == _ZERO)])
    minus = np.flatnonzero(outside == _MINUS)
    odd.append(minus[(padded[minus + 1] == _ZERO) & (padded[minus + 2] != _POINT)])
    for places in odd:
        plain[np.searchsorted(offsets, places, side="right") - 1] = False


def _without_digits(outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every run of digits as one zero, and no minus."""
    is_digit = (outside >= _ZERO) & (outside <= _NINE)
    kept = outside != _MINUS
    kept[1:] &= ~(is_digit[1:] & is_digit[:-1])
    gaps = np.where(is_digit, np.uint8(_ZERO), outside)[kept]
    return gaps, np.concatenate([[0], np.flatnonzero(gaps == _NEWLINE) + 1])


def _binary(data: np.ndarray, offsets: np.ndarray) -> pa.BinaryArray:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
