"""The landing folder: which files are there, what their content hash is, and their lines as bytes.

Nothing here knows what a line means. A file or a line that cannot be read is handed on with a reason, never raised:
one bad file must not keep the others out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
MAX_LINE_BYTES = 32 * 1024 * 1024
_CHUNK = 1024 * 1024
_KEPT_OF_LONG_LINE = 1_000
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, order=True)
class LandingFile:
    """A file of the landing folder as its directory lists it; the content is not read."""

    relative_name: str
    path: Path
    size: int
    mtime_ns: int


class RawLine(NamedTuple):
    """A line by its number from 1. ``reason`` says why it cannot be parsed at all; ``content`` is then what is kept of it."""

    number: int
    content: bytes
    reason: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Lines of a file: those to parse, with their numbers, and those that cannot be parsed at all. Blank lines are in neither."""

    numbers: np.ndarray
    lines: pa.BinaryArray
    broken: tuple[RawLine, ...] = ()


def list_landing(folder: Path) -> list[LandingFile]:
    """Landing files below ``folder``, sorted by relative name. Hidden files are half-written ones and left out.

    A folder that does not exist has no files. Contents are not read, so that a sensor can call this at every tick.
    """
    found = []
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith(".") or not name.endswith(SUFFIXES):
                continue
            path = Path(directory) / name
            try:
                status = path.stat()
            except OSError:
                continue  # moved away since it was listed
            found.append(LandingFile(path.relative_to(folder).as_posix(), path, status.st_size, status.st_mtime_ns))
    return sorted(found)


def content_hash(path: Path) -> tuple[str, int]:
    """SHA-256 of the file's bytes, in hex, and how many bytes that were. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def read_lines(path: Path, size: int) -> Iterator[RawLine]:
    """The lines of the file's first ``size`` bytes (those that were hashed: the file may be growing).

    Blank lines are passed over. A file that cannot be read as lines yields one line with its reason: ``not_gzip``,
    ``utf16``; one that breaks off, its good lines and then ``gzip_truncated`` or ``gzip_corrupt``. Raises OSError.
    """
    with path.open("rb") as file:
        prefix = _Prefix(file, size)
        if not path.name.endswith(".gz"):
            yield from _split(io.BufferedReader(prefix, _CHUNK))
            return
        head = file.read(2)
        file.seek(0)
        if size and head != _GZIP_MAGIC[: min(size, 2)]:
            yield RawLine(1, b"", "not_gzip")
            return
        with gzip.GzipFile(fileobj=io.BufferedReader(prefix, _CHUNK), mode="rb") as unzipped:
            yield from _split(unzipped)


def read_chunks(path: Path, size: int) -> Iterator[Chunk]:
    """The lines of :func:`read_lines` in chunks."""
    lines = read_lines(path, size)
    while part := list(itertools.islice(lines, 20_000)):
        good = [line for line in part if line.reason is None]
        numbers = np.array([line.number for line in good], np.int64)
        contents = pa.array([line.content for line in good], pa.binary())
        yield Chunk(numbers, contents, tuple(line for line in part if line.reason))


class _Lines(Protocol):
    def readline(self, size: int, /) -> bytes: ...


class _Prefix(io.RawIOBase):
    """The first ``size`` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        chunk = self._file.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)


def _split(file: _Lines) -> Iterator[RawLine]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(MAX_LINE_BYTES + 1)
            too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
            if too_long:
                _skip_rest_of_line(file)
        except EOFError:
            yield RawLine(number, b"", "gzip_truncated")
            return
        except (gzip.BadGzipFile, zlib.error):
            yield RawLine(number, b"", "gzip_corrupt")
            return
        if not line:
            return
        if number == 1:
            if line.startswith(_UTF16_BOMS):
                yield RawLine(1, b"", "utf16")
                return
            line = line.removeprefix(_UTF8_BOM)
        if too_long:
            yield RawLine(number, line[:_KEPT_OF_LONG_LINE], "line_too_long")
        elif line := line.strip():
            yield RawLine(number, line)


def _skip_rest_of_line(file: _Lines) -> None:
    while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
        pass
