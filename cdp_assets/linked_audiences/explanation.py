"""The answer to why a profile is in an audience or not, as JSON and as text for a terminal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cdp_assets.linked_audiences.describe import drawn
from cdp_assets.space.documents import Place


@dataclass(frozen=True)
class Node:
    """A condition with its verdict.

    ``holds``: of a filter or a nested condition, for some row at least. ``rows``: distinct rows that it looked at; ``passing``: how many
    of them meet it. ``values``: some that a filter compared. ``query``: of a condition that more rows would break, what counts them.
    """

    text: str
    place: Place | None
    holds: bool
    rows: int | None = None
    passing: int | None = None
    values: tuple[Any, ...] = ()
    query: str | None = None
    below: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        counts = {"rows": self.rows, "passing": self.passing} if self.rows is not None else {}
        return {
            "text": self.text,
            "holds": self.holds,
            **counts,
            **({"values": list(self.values)} if self.values else {}),
            **({"query": self.query} if self.query else {}),
            **({"below": [node.to_json() for node in self.below]} if self.below else {}),
        }


@dataclass(frozen=True)
class Cited:
    """A piece of evidence in words. ``through``: the profile that it belonged to before merges, where that is another one."""

    kind: str
    text: str
    through: str | None = None

    def __str__(self) -> str:
        return f"{self.text} (through {self.through}, which merged)" if self.through else self.text

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text, **({"through": self.through} if self.through else {})}


@dataclass(frozen=True)
class Flip:
    """A condition whose verdict is another one than at an earlier instant, and because of what."""

    text: str
    was: bool
    holds: bool
    because: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "was": self.was, "is": self.holds, "because": list(self.because)}


@dataclass(frozen=True)
class Since:
    """What changed since an earlier instant, by the definition as it is now; ``definition``: what changed of it since the build of then."""

    instant: dt.datetime
    member: bool
    flips: tuple[Flip, ...]
    definition: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "since": instant_text(self.instant),
            "member": self.member,
            "flipped": [flip.to_json() for flip in self.flips],
            "definition_changes": list(self.definition),
        }


@dataclass(frozen=True)
class Why:
    """The answer.

    ``member``: by the definition as it is, at ``as_of``. ``cited``: of a member a smallest set of rows that makes it one. ``lacking``: of
    somebody else a smallest set of conditions that would have to hold. ``consent``: category -> true, false or conflict. ``built``: the
    newest build until ``as_of``, and whether the profile is a member in it.
    """

    audience: str
    profile: str
    as_of: dt.datetime
    member: bool
    suppressed: bool
    tree: Node
    cited: tuple[Cited, ...]
    lacking: tuple[str, ...]
    consent: Mapping[str, str]
    built: Mapping[str, Any] | None
    since: Since | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, for one JSON object."""
        return {
            "audience": self.audience,
            "profile": self.profile,
            "as_of": instant_text(self.as_of),
            "member": self.member,
            "suppressed": self.suppressed,
            "conditions": self.tree.to_json(),
            "because_of": [one.to_json() for one in self.cited],
            "lacking": list(self.lacking),
            "consent": dict(self.consent),
            "built": None if self.built is None else dict(self.built),
            **({} if self.since is None else {"since": self.since.to_json()}),
        }

    def to_text(self, *, queries: bool = False) -> str:
        """For a terminal; ``queries``: with the SQL that counts the rows of conditions that more rows would break."""
        verdict = "is" if self.member else "is not"
        lines = [f"{self.profile} {verdict} in {self.audience} as of {instant_text(self.as_of)}"]
        if self.suppressed:
            lines.append("the profile is suppressed: it is in no audience, whatever the conditions say")
        lines += ["", *drawn(self.tree, _said), ""]
        if self.cited:
            lines += ["because of:", *(f"  {one}" for one in self.cited), ""]
        if self.lacking:
            lines += ["would have to hold:", *(f"  {one}" for one in self.lacking), ""]
        said = ", ".join(f"{category} {value}" for category, value in self.consent.items())
        lines.append(f"consent: {said or 'no categories in this space'}")
        lines.append(self._built_text())
        if self.since is not None:
            lines += ["", *self._since_text(self.since)]
        if queries:
            lines += [f"\n-- {node.text}\n{node.query}" for node in _nodes(self.tree) if node.query]
        return "\n".join(lines)

    def _built_text(self) -> str:
        if self.built is None:
            return "the audience has no build until then"
        inside = "a member" if self.built["member"] else "no member"
        other = "" if self.built["current_definition"] else ", by another definition"
        return f"newest build until then: partition {self.built['partition']} as of {self.built['as_of']}: {inside}{other}"

    def _since_text(self, since: Since) -> Iterator[str]:
        verdict = "was in" if since.member else "was not in"
        yield f"as of {instant_text(since.instant)} it {verdict}, by the conditions as they are now"
        for flip in since.flips:
            yield f"  {_mark(flip.was)} → {_mark(flip.holds)} {flip.text}"
            yield from (f"      {reason}" for reason in flip.because)
        if since.definition:
            yield "  the definition changed since the build of then:"
            yield from (f"      {change}" for change in since.definition)


def instant_text(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


def _nodes(root: Node) -> Iterator[Node]:
    yield root
    for node in root.below:
        yield from _nodes(node)


def _said(node: Node) -> str:
    if node.place is None:
        return node.text
    found = ""
    if node.rows is not None:
        found = f"  [{node.passing:,} of {node.rows:,}]"
    if node.values:
        found += "  (" + ", ".join(str(value) for value in node.values) + ")"
    return f"{_mark(node.holds)} {node.text}{found}"
