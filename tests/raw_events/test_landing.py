"""The landing folder: every file once, and whatever is wrong with a file or a line ends in quarantine with its reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cdp_assets.raw_events import landing
from cdp_assets.raw_events.landing import RawLine, content_hash, list_landing, read_chunks, read_lines


def lines_of(path: Path) -> list[tuple]:
    return [(line.number, line.reason) for line in read_lines(path, path.stat().st_size)]


def test_files_are_listed_in_order_and_hidden_or_foreign_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json.gz", "a/y.jsonl.gz", "c.json", ".half.jsonl", ".tmp/x.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file.relative_name for file in list_landing(tmp_path)] == ["a/y.jsonl.gz", "a/z.json.gz", "b.jsonl", "c.json"]
    assert list_landing(tmp_path / "nowhere") == []


def test_blank_lines_are_passed_over_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\n  \n[]")
    assert list(read_lines(path, path.stat().st_size)) == [RawLine(1, b"{}"), RawLine(4, b"[]")]


def test_only_the_hashed_part_of_a_growing_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    _, size = content_hash(path)
    path.write_bytes(b"{}\n[]\n")
    assert [line.content for line in read_lines(path, size)] == [b"{}"]


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
    found = list(read_lines(path, path.stat().st_size))
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


def test_the_lines_of_a_file_that_grew_are_duplicates(room, message) -> None:
    room.land("a.jsonl", message("m1"))
    room.run()
    room.land("a.jsonl", message("m1"), message("m2"))
    counts = room.run()["2026-01-01"]
    assert (counts.lines, counts.accepted, counts.duplicates, counts.quarantined) == (3, 2, 1, 0)


def test_a_file_that_cannot_be_read_waits_for_the_next_time(room, message, monkeypatch: pytest.MonkeyPatch) -> None:
    room.land("a.jsonl", message("m1"))
    room.land("b.jsonl", message("m2"))

    def broken(path: Path, size: int):
        yield from read_chunks(path, size)
        if path.name == "a.jsonl":
            raise OSError("disk")

    with monkeypatch.context() as patched:
        patched.setattr("cdp_assets.raw_events.intake.read_chunks", broken)
        room.run()
    assert room.intake.unreadable == ("a.jsonl",)
    assert room.rows("messages", "message_id") == [("m2",)]
    room.run()
    assert room.rows("messages", "message_id") == [("m1",), ("m2",)]
