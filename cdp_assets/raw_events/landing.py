"""The landing folder: which files are there, what their content hash is, and their lines as bytes.

Nothing here knows what a line means. A file or a line that cannot be read is handed on with a reason, never raised:
one bad file must not keep the others out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
MAX_LINE_BYTES = 32 * 1024 * 1024
_CHUNK = 1024 * 1024
_CHUNK_BYTES = 8 * 1024 * 1024
_KEPT_OF_LONG_LINE = 1_000
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_NEWLINE = ord("\n")
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))


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
    """Lines of a file: those to parse, with their numbers, and those that cannot be parsed at all. Blank lines are in neither.

    ``lines[i]`` is ``data[offsets[i]:offsets[i + 1]]`` and ends in its only newline. ``next_line``, on the last chunk of a file that ends
    with a whole line: the number of the line that would come next if the file grew.
    """

    numbers: np.ndarray
    data: bytes
    offsets: np.ndarray
    broken: tuple[RawLine, ...] = ()
    next_line: int | None = None

    @property
    def lines(self) -> pa.BinaryArray:
        """The lines as an Arrow array over the same bytes."""
        buffers = [None, pa.py_buffer(self.offsets.astype(np.int32)), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.binary(), len(self.numbers), buffers)

    def content(self, place: int) -> bytes:
        """A line without the white space around it."""
        return self.data[self.offsets[place] : self.offsets[place + 1]].strip()


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


def content_hash(path: Path, sizes: Sequence[int] = ()) -> tuple[str, int, dict[int, str]]:
    """SHA-256 of the file's bytes, in hex, how many bytes that were, and the hashes of its first ``sizes`` bytes. Raises OSError."""
    digest, size, parts = hashlib.sha256(), 0, {}
    with path.open("rb") as file:
        for part in sorted(set(sizes)):
            while size < part and (chunk := file.read(min(_CHUNK, part - size))):
                digest.update(chunk)
                size += len(chunk)
            if size == part:
                parts[part] = digest.hexdigest()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size, parts


def read_chunks(path: Path, size: int, start: int = 0, first_line: int = 1) -> Iterator[Chunk]:
    """The lines of the file's first ``size`` bytes (those that were hashed: the file may be growing), in chunks.

    ``start``: how many bytes not to read again, of a file that grew by whole lines; ``first_line`` is the number of the line there.

    Blank lines are passed over. A file that cannot be read as lines yields one line with its reason: ``not_gzip``,
    ``utf16``; one that breaks off, its good lines and then ``gzip_truncated`` or ``gzip_corrupt``. Raises OSError.
    """
    splitter = _Splitter(first_line)
    for piece in _pieces(path, size, start):
        if isinstance(piece, str):
            yield splitter.end(piece)
            return
        if splitter.number == 1 and splitter.empty and piece.startswith(_UTF16_BOMS):
            yield splitter.end("utf16")
            return
        if chunk := splitter.add(piece):
            yield chunk
    yield splitter.end(None)


def _pieces(path: Path, size: int, start: int) -> Iterator[bytes | str]:
    """The file's content, unzipped, in pieces; at last a reason where it breaks off."""
    with path.open("rb") as file:
        file.seek(start)
        prefix = io.BufferedReader(_Prefix(file, size - start), _CHUNK)
        if not path.name.endswith(".gz"):
            while piece := prefix.read(_CHUNK):
                yield piece
            return
        head = prefix.peek(2)[:2]
        if head != _GZIP_MAGIC[: min(size - start, 2)]:
            yield "not_gzip"
            return
        with gzip.GzipFile(fileobj=prefix, mode="rb") as unzipped:
            try:
                # One step of the decompressor at a time: what it gave before it broke off is not lost.
                while piece := unzipped.read1(_CHUNK):
                    yield piece
            except EOFError:
                yield "gzip_truncated"
            except (gzip.BadGzipFile, zlib.error):
                yield "gzip_corrupt"


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


class _Splitter:
    """Pieces of a file on their way into chunks of whole lines. Holds a chunk, and never more of one line than the longest allowed."""

    def __init__(self, first_line: int) -> None:
        self.number = first_line
        self._pieces: list[bytes] = []
        self._held = 0
        # of a line that is too long: what is kept of it, while the rest of it passes
        self._long: bytes | None = None
        self._broken: list[RawLine] = []

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet to the present line."""
        return not self._held and self._long is None

    def add(self, piece: bytes) -> Chunk | None:
        """Take in a piece; a chunk when enough is held."""
        if self.number == 1 and self.empty:
            piece = piece.removeprefix(_UTF8_BOM)
        if self._long is not None:
            _, newline, piece = piece.partition(b"\n")
            if not newline:
                return None
            self._end_long_line()
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held < _CHUNK_BYTES:
            return None
        data = b"".join(self._pieces)
        whole, newline, rest = data.rpartition(b"\n")
        self._pieces, self._held = [rest], len(rest)
        if len(rest) > MAX_LINE_BYTES:
            self._long, self._pieces, self._held = rest[:_KEPT_OF_LONG_LINE], [], 0
        return self._chunk(whole + newline) if newline else None

    def end(self, reason: str | None) -> Chunk:
        """The rest as the last chunk; ``reason`` says of the line that would come next why there is none."""
        if self._long is not None:
            self._end_long_line()
        rest = b"".join(self._pieces) if reason is None else b"".join(self._pieces).rpartition(b"\n")[0]
        whole = not rest or rest.endswith(b"\n")
        chunk = self._chunk(rest if whole else rest + b"\n")
        if reason is None:
            return replace(chunk, next_line=self.number if whole else None)
        return Chunk(chunk.numbers, chunk.data, chunk.offsets, (*chunk.broken, RawLine(self.number, b"", reason)))

    def _end_long_line(self) -> None:
        self._broken.append(RawLine(self.number, self._long or b"", "line_too_long"))
        self._long = None
        self.number += 1

    def _chunk(self, data: bytes) -> Chunk:
        """Whole lines as a chunk."""
        content = np.frombuffer(data, np.uint8)
        offsets = np.concatenate([[0], np.flatnonzero(content == _NEWLINE) + 1])
        lengths = np.diff(offsets)
        numbers = self.number + np.arange(len(lengths))
        self.number += len(lengths)
        # Only a line that begins with white space can be blank.
        unsure = np.flatnonzero(_IS_SPACE[content[offsets[:-1]]])
        blank = [int(i) for i in unsure if not data[offsets[i] : offsets[i + 1]].strip()]
        long = [int(i) for i in np.flatnonzero(lengths > MAX_LINE_BYTES + 1)]
        broken, self._broken = list(self._broken), []
        broken += [RawLine(int(numbers[i]), data[offsets[i] : offsets[i] + _KEPT_OF_LONG_LINE], "line_too_long") for i in long]
        if blank or long:
            kept = np.ones(len(lengths), bool)
            kept[[*blank, *long]] = False
            data = content[np.repeat(kept, lengths)].tobytes()
            numbers, offsets = numbers[kept], np.concatenate([[0], np.cumsum(lengths[kept])])
        return Chunk(numbers, data, offsets, tuple(broken))


def fingerprint(files: Sequence[LandingFile]) -> str:
    """What the listing looks like: names, sizes and times, not contents."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.relative_name):
        digest.update(f"{file.relative_name}\0{file.size}\0{file.mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
