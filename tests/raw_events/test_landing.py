"""The landing folder: every file once, and whatever is wrong with a file or a line ends in quarantine with its reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cdp_assets.raw_events import landing
from cdp_assets.raw_events.landing import RawLine, content_hash, list_landing, read_chunks


def read(path: Path, size: int | None = None) -> list[RawLine]:
    """The lines of a file in their order."""
    found: list[RawLine] = []
    for chunk in read_chunks(path, path.stat().st_size if size is None else size):
        lines = [RawLine(int(number), chunk.content(place)) for place, number in enumerate(chunk.numbers)]
        assert [line.strip() for line in chunk.lines.to_pylist()] == [line.content for line in lines]
        found += sorted([*lines, *chunk.broken])
    return found


def lines_of(path: Path) -> list[tuple]:
    return [(line.number, line.reason) for line in read(path)]


def test_files_are_listed_in_order_and_hidden_or_foreign_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json.gz", "a/y.jsonl.gz", "c.json", ".half.jsonl", ".tmp/x.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file.relative_name for file in list_landing(tmp_path)] == ["a/y.jsonl.gz", "a/z.json.gz", "b.jsonl", "c.json"]
    assert list_landing(tmp_path / "nowhere") == []


def test_blank_lines_are_passed_over_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\n  \n[]")
    assert read(path) == [RawLine(1, b"{}"), RawLine(4, b"[]")]


def test_chunks_cut_a_file_anywhere_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b"x" * (7 * n % 50) for n in range(400)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    expected = [RawLine(number, line) for number, line in enumerate(lines, 1) if line]
    for piece, chunk in ((1, 1), (3, 10), (64, 100), (5_000, 100)):
        monkeypatch.setattr(landing, "_CHUNK", piece)
        monkeypatch.setattr(landing, "_CHUNK_BYTES", chunk)
        assert read(path) == expected


def test_only_the_hashed_part_of_a_growing_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    _, size, _ = content_hash(path)
    path.write_bytes(b"{}\n[]\n")
    assert [line.content for line in read(path, size)] == [b"{}"]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl.gz", b'{"plain": 1}\n', [(1, "not_gzip")]),
        ("a.jsonl.gz", b"", []),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 3)[:-6], [(1, None), (2, None), (3, None), (4, "gzip_truncated")]),
        ("a.jsonl.gz", gzip.compress(b"{}\n")[:-8] + b"\0" * 8, [(1, None), (2, "gzip_corrupt")]),
        ("a.jsonl", "{}\n".encode("utf-16"), [(1, "utf16")]),
    ],
    ids=["not gzip", "empty", "truncated", "corrupt", "utf-16"],
)
def test_a_broken_file_gives_its_good_lines_and_a_reason(tmp_path: Path, name: str, content: bytes, found: list) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert lines_of(path) == found


def test_an_over_long_line_is_cut_and_its_neighbours_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "MAX_LINE_BYTES", 2_000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 5_000_000 + b"\n[]\n")
    found = read(path)
    assert [(line.number, line.reason, len(line.content)) for line in found] == [
        (1, None, 2),
        (2, "line_too_long", 1_000),
        (3, None, 2),
    ]


def test_every_bad_line_is_quarantined_with_its_place(room, message) -> None:
    room.land(
        "a.jsonl",
        b"no json",
        message("good"),
        b'{"messageId":"nul\x00"}',
        json.dumps(message("escaped", userId="a\x00b")).encode(),
        b'{"caf\xe9": 1}',
        b"[1]",
        b"[" * 5_000,
    )
    (room.folder / "b.jsonl.gz").write_bytes(b"plain text, no gzip")
    counts = room.run()
    assert room.rows("quarantine", "file", "line", "reason", "partition_key") == [
        ("a.jsonl", 1, "invalid_json", "2026-01-01"),
        ("a.jsonl", 3, "nul_byte", "2026-01-01"),
        ("a.jsonl", 4, "nul_byte", "2026-01-01"),
        ("a.jsonl", 5, "invalid_utf8", "2026-01-01"),
        ("a.jsonl", 6, "not_object", "2026-01-01"),
        ("a.jsonl", 7, "invalid_json", "2026-01-01"),
        ("b.jsonl.gz", 1, "not_gzip", "2026-01-01"),
    ]
    first = counts["2026-01-01"]
    assert (first.lines, first.accepted, first.duplicates, first.quarantined) == (8, 1, 0, 7)


def test_a_file_is_taken_in_once_whatever_its_name(room, message) -> None:
    room.land("a.jsonl", message("m1"))
    room.land("copy.jsonl", message("m1"))
    room.run()
    assert (room.intake.files, room.intake.known) == (1, 1)
    room.run()
    assert (room.intake.files, room.intake.known) == (0, 2)
    assert room.affected == set()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_of_a_file_that_grew_only_the_new_lines_are_taken_in(room, message, name: str) -> None:
    path = room.land(name, message("m1"), b"bad")
    room.run()
    with path.open("ab") as file:
        more = b"\n" + json.dumps(message("m2")).encode() + b"\n"
        file.write(gzip.compress(more) if name.endswith(".gz") else more)
    counts = room.run()["2026-01-01"]
    assert (counts.lines, counts.accepted, counts.duplicates, counts.quarantined) == (3, 2, 0, 1)
    assert room.rows("messages", "message_id", "line") == [("m1", 1), ("m2", 4)]
    assert room.rows("landing_files", "lines", "next_line") == [(1, 5), (2, 3)]
    room.run()
    assert (room.intake.files, room.intake.known) == (0, 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda a, b: a[:-1], lambda a, b: a + b),
        (lambda a, b: gzip.compress(a), lambda a, b: gzip.compress(a + b)),
        (lambda a, b: a + b + b, lambda a, b: a + b),
    ],
    ids=["grew within a line", "packed anew", "truncated"],
)
def test_a_file_that_changed_otherwise_is_read_again_and_its_known_lines_are_duplicates(room, message, before, after) -> None:
    a, b = (json.dumps(message(name)).encode() + b"\n" for name in ("m1", "m2"))
    path = room.land("a.jsonl.gz" if before(a, b)[:2] == b"\x1f\x8b" else "a.jsonl")
    path.write_bytes(before(a, b))
    earlier = room.run()["2026-01-01"]
    path.write_bytes(after(a, b))
    counts = room.run()["2026-01-01"]
    assert (counts.lines, counts.accepted, counts.quarantined) == (earlier.lines + 2, 2, 0)
    assert counts.duplicates == counts.lines - 2


def test_a_file_that_cannot_be_read_waits_for_the_next_time(room, message, monkeypatch: pytest.MonkeyPatch) -> None:
    room.land("a.jsonl", message("m1"))
    room.land("b.jsonl", message("m2"))

    def broken(path: Path, *part: int):
        yield from read_chunks(path, *part)
        if path.name == "a.jsonl":
            raise OSError("disk")

    with monkeypatch.context() as patched:
        patched.setattr("cdp_assets.raw_events.intake.read_chunks", broken)
        room.run()
    assert room.intake.unreadable == ("a.jsonl",)
    assert room.rows("messages", "message_id") == [("m2",)]
    room.run()
    assert room.rows("messages", "message_id") == [("m1",), ("m2",)]
