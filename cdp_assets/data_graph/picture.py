"""The data graph as an SVG picture: profile and entities as cards, relationships as lines with their join keys and match rates.

What belongs here: where things stand and how they look. What does not: counting (:mod:`.measure`), and who uses a node, which the
caller says. The picture depends on its arguments alone, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from cdp_assets.data_graph.diff import join_text
from cdp_assets.data_graph.measure import Measured
from cdp_assets.data_graph.model import DataGraph, Entity, JunctionJoin, Node

CARD_WIDTH, CARD_HEIGHT = 264, 112
LANE = 290  # between two columns of cards; holds the lines and what is written on them
GAP = 28  # between two cards of a column
MARGIN, HEAD = 28, 76
_TRUNK = 22  # from a card to where its lines part
# Average advance in px of sans-serif text of 12 and 11px, and of monospaced text of 10.5px.
_SANS, _SMALL, _MONO = 6.1, 5.5, 6.35

_STYLE = (
    "text{font-family:Inter,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2733}"
    ".t{font-size:14px;font-weight:600}.s{font-size:12px}.q{font-size:11px;fill:#5b6675}"
    ".m{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:10.5px;fill:#3c4756}"
    ".h{font-size:18px;font-weight:600}.u{fill:#3d4bb8;font-weight:600}.e{fill:#b3261e;font-weight:600}.w{fill:#fff}"
    ".card{fill:#fff;stroke:#cfd6e0}.bad{fill:#fff5f4;stroke:#b3261e}.profile{fill:#343f9e}"
    ".edge{fill:none;stroke:#8d99ab;stroke-width:1.5}.pill{fill:#eef0fb;stroke:#c3c9f0}"
    ".bar{fill:#e4e8ee}.good{fill:#2f9e6e}.some{fill:#dc9a1c}.part{fill:#8a94dd}"
)


@dataclass(frozen=True)
class Picture:
    """What to draw beside the graph itself.

    consumers: by node path, names of everything that uses it, as ``audience overdue``; None leaves the lines out. measured: None where the
    warehouse was not asked. problems: what is wrong, by entity slug, in a few words. note: a last line.
    """

    title: str
    consumers: Mapping[str, Sequence[str]] | None = None
    measured: Measured | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Box:
    """A card's place, in px from the top left corner. ``node``: None for the profile and for entities without relationships."""

    x: float
    y: float
    node: Node | None = None
    entity: Entity | None = None

    @property
    def middle(self) -> float:
        return self.y + CARD_HEIGHT / 2

    @property
    def right(self) -> float:
        return self.x + CARD_WIDTH


@dataclass(frozen=True)
class Layout:
    """Places of all cards: the profile (None without relationships), nodes by path, and entities that no relationship names, by slug."""

    profile: Box | None
    nodes: Mapping[str, Box]
    alone: Mapping[str, Box]
    width: float
    height: float


def lay_out(graph: DataGraph) -> Layout:
    """A layered tree from left to right: a column for each level, each card at the height of the middle of those that it leads to."""
    nodes = list(graph.nodes())
    children: dict[str | None, list[Node]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    tops: dict[str, float] = {}
    bottom = float(HEAD)

    def place(node: Node) -> float:
        nonlocal bottom
        below = [place(child) for child in children.get(node.path, [])]
        if below:
            tops[node.path] = (below[0] + below[-1]) / 2
        else:
            tops[node.path] = bottom
            bottom += CARD_HEIGHT + GAP
        return tops[node.path]

    first = [place(root) for root in children.get(None, [])]
    profile = Box(MARGIN, (first[0] + first[-1]) / 2) if first else None
    boxes = {
        node.path: Box(MARGIN + (node.path.count(":") + 1) * (CARD_WIDTH + LANE), tops[node.path], node, node.entity)
        for node in nodes
    }
    right = max((box.right for box in boxes.values()), default=float(MARGIN + 2 * CARD_WIDTH + GAP))
    named = {node.entity.slug for node in nodes}
    alone = [entity for entity in graph.entities if entity.slug not in named]
    if alone and boxes:
        bottom += 24
    in_row = max(1, int((right - MARGIN + GAP) // (CARD_WIDTH + GAP)))
    alone_boxes = {
        entity.slug: Box(
            MARGIN + index % in_row * (CARD_WIDTH + GAP), bottom + index // in_row * (CARD_HEIGHT + GAP), None, entity
        )
        for index, entity in enumerate(alone)
    }
    bottom = max([bottom, *(box.y + CARD_HEIGHT + GAP for box in alone_boxes.values())])
    return Layout(profile, boxes, alone_boxes, right + MARGIN, bottom + 18)


def draw(graph: DataGraph, picture: Picture, *, fluid: bool = False) -> str:
    """The picture as a self-contained SVG document, with a light ground, without scripts and links.

    ``fluid``: as wide as the page that shows it; else of a fixed size in px, at which its text reads well.
    """
    layout = lay_out(graph)
    width, height = f"{layout.width:g}", f"{layout.height:g}"
    size = "" if fluid else f' width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg"{size} viewBox="0 0 {width} {height}" role="img">',
        f"<title>{_safe(picture.title)}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#f7f8fa"/>',
        _text(MARGIN, 36, "h", picture.title, layout.width - 2 * MARGIN),
        _text(MARGIN, 56, "q", _summary(graph), layout.width - 2 * MARGIN),
    ]
    for box in layout.nodes.values():
        lines += _edge(box, _above(box, layout), picture)
    if layout.profile:
        lines += _profile(graph, layout.profile, picture)
    for box in layout.nodes.values():
        lines += _card(box, picture)
    if layout.alone:
        top = min(box.y for box in layout.alone.values())
        lines.append(_text(MARGIN, top - 10, "q", "entities without a relationship", CARD_WIDTH))
    for box in layout.alone.values():
        lines += _card(box, picture)
    lines.append(_text(MARGIN, layout.height - 12, "q", picture.note, layout.width - 2 * MARGIN))
    return "\n".join([*(line for line in lines if line), "</svg>", ""])


def _above(box: Box, layout: Layout) -> Box:
    above = layout.nodes[box.node.parent] if box.node and box.node.parent else layout.profile
    assert above is not None  # whoever has a node has a profile
    return above


def _summary(graph: DataGraph) -> str:
    nodes = list(graph.nodes())
    depth = max((node.path.count(":") + 2 for node in nodes), default=1)
    return f"{_plural(len(graph.entities), 'entity')}, {_plural(len(nodes), 'relationship')}, {_plural(depth, 'level')} with the profile"


# -- cards -------------------------------------------------------------------------------------------------------------


def _profile(graph: DataGraph, box: Box, picture: Picture) -> Iterator[str]:
    count = picture.measured.profiles if picture.measured else None
    yield f'<rect class="profile" x="{box.x:g}" y="{box.y:g}" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="8"/>'
    yield _text(box.x + 16, box.y + 30, "t w", "Profile", CARD_WIDTH - 32)
    said = _plural(count, "profile") if count is not None else "" if picture.measured is None else "no profiles yet"
    yield _text(box.x + 16, box.y + 52, "s w", said, CARD_WIDTH - 32)
    yield _text(box.x + 16, box.y + 78, "m w", graph.profile_folder, CARD_WIDTH - 32)
    yield _text(box.x + 16, box.y + 94, "m w", graph.profile_type, CARD_WIDTH - 32)


def _card(box: Box, picture: Picture) -> Iterator[str]:
    entity = box.entity
    assert entity is not None
    problem = picture.problems.get(entity.slug, "")
    consumers = (picture.consumers or {}).get(box.node.path, ()) if box.node else ()
    kind = "card bad" if problem else "card"
    colour = "#b3261e" if problem else "#3d4bb8" if consumers else "#aab4c3"
    yield f"<g><title>{_safe(_tooltip(entity, box.node, consumers, problem))}</title>"
    yield f'<rect class="{kind}" x="{box.x:g}" y="{box.y:g}" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="8"/>'
    yield f'<rect x="{box.x:g}" y="{box.y + 10:g}" width="4" height="{CARD_HEIGHT - 20}" rx="2" fill="{colour}"/>'
    left, room = box.x + 16, CARD_WIDTH - 28
    yield _text(left, box.y + 23, "t", entity.name, room)
    yield _text(left, box.y + 41, "m", entity.table_ref, room)
    rows = picture.measured.tables.get(entity.slug) if picture.measured else None
    counted = f"{_plural(rows, 'row')} · " if rows is not None else ""
    yield _text(left, box.y + 62, "s", f"{counted}key {entity.primary_key}", room)
    if problem:
        yield _text(left, box.y + 82, "s e", problem, room)
    elif box.node and picture.consumers is not None:
        yield _text(left, box.y + 82, "q u" if consumers else "q", _counted(consumers, room) or "not used", room)
        yield _text(left, box.y + 99, "q", _names(consumers, room), room)
    yield "</g>"


def _tooltip(entity: Entity, node: Node | None, consumers: Sequence[str], problem: str) -> str:
    lines = [f"{entity.name} ({entity.slug})", entity.description, f"node {node.path}" if node else "", entity.table_ref, problem]
    return "\n".join([line for line in lines if line] + list(consumers))


def _counted(consumers: Sequence[str], room: float) -> str:
    """``2 audiences · 1 activation``; where that is too long, models and traits together are others."""
    kinds = [name.split(" ", 1)[0] for name in consumers]
    counts = [(kind, kinds.count(kind)) for kind in _KINDS if kind in kinds]
    full = " · ".join(_plural(count, kind) for kind, count in counts)
    if len(full) <= room / _SMALL:
        return full
    others = sum(count for kind, count in counts if kind in ("model", "trait"))
    named = [(kind, count) for kind, count in counts if kind not in ("model", "trait")]
    return " · ".join(_plural(count, kind) for kind, count in (*named, ("other", others)))


def _names(consumers: Sequence[str], room: float) -> str:
    """As many names as there is room for, audiences first, and how many more there are."""
    ordered = sorted(consumers, key=lambda name: _KINDS.index(name.split(" ", 1)[0]))
    names = [name.split(" ", 1)[1] for name in ordered]
    shown = len(names)
    while shown > 1 and len(_listed(names, shown)) > room / _SMALL:
        shown -= 1
    return _listed(names, shown)


def _listed(names: Sequence[str], shown: int) -> str:
    more = f" +{len(names) - shown}" if shown < len(names) else ""
    return ", ".join(names[:shown]) + more


_KINDS = ("audience", "activation", "model", "trait")


# -- lines -------------------------------------------------------------------------------------------------------------


def _edge(box: Box, above: Box, picture: Picture) -> Iterator[str]:
    node = box.node
    assert node is not None
    trunk = above.right + _TRUNK
    yield f'<path class="edge" d="{_route(above.right, above.middle, trunk, box.x, box.middle)}"/>'
    yield f'<path d="M{box.x - 7:g} {box.middle - 4:g}l7 4l-7 4z" fill="#8d99ab"/>'
    left, room = trunk + 14, LANE - _TRUNK - 26
    slug = "" if node.relationship.slug == node.relationship.name.lower() else f" ({node.relationship.slug})"
    yield _text(left, box.middle - 24, "s", node.relationship.name + slug, room)
    join = node.join
    if isinstance(join, JunctionJoin):
        keys = f"{join.parent_column} = {join.junction_left}, {join.junction_right} = {join.child_column}"
    else:
        keys = join_text(join)
    yield _text(left, box.middle - 9, "m", keys, room)
    if isinstance(join, JunctionJoin):
        words = _shortened(f"via {join.table_ref}", room - 16, _MONO)
        wide = len(words) * _MONO + 16
        yield f'<rect class="pill" x="{left:g}" y="{box.middle - 56:g}" width="{wide:g}" height="18" rx="9"/>'
        yield _text(left + 8, box.middle - 43.5, "m", words, room)
    counts = picture.measured.joins.get(node.path) if picture.measured else None
    if counts is not None:
        yield from _rate(left, box.middle + 15, counts.rows_matched, counts.rows, "rows", room, judged=True)
        above_rows = "profiles" if node.parent is None else "parents"
        yield from _rate(left, box.middle + 31, counts.parents_matched, counts.parents, above_rows, room)
        yield _text(left, box.middle + 48, "q", f"{_plural(counts.pairs, 'pair')} joined", room)


def _route(x1: float, y1: float, trunk: float, x2: float, y2: float) -> str:
    """Right to the trunk, along it, right to the card, with round corners."""
    if abs(y1 - y2) < 1:
        return f"M{x1:g} {y1:g}H{x2:g}"
    turn = min(8.0, abs(y2 - y1) / 2) * (1 if y2 > y1 else -1)
    side = abs(turn)
    return (
        f"M{x1:g} {y1:g}H{trunk - side:g}Q{trunk:g} {y1:g} {trunk:g} {y1 + turn:g}"
        f"V{y2 - turn:g}Q{trunk:g} {y2:g} {trunk + side:g} {y2:g}H{x2:g}"
    )


def _rate(x: float, y: float, part: int, whole: int, words: str, room: float, *, judged: bool = False) -> Iterator[str]:
    """A bar and ``84 % of 1,200 rows match``. Of nothing there is no share.

    ``judged``: rows that lead to nobody are a finding, coloured as good or bad; that not everybody has rows is none.
    """
    if not whole:
        yield _text(x, y, "q", f"no {words} to match", room)
        return
    share = part / whole
    level = "part" if not judged else "good" if share >= 0.9 else "some"
    yield f'<rect class="bar" x="{x:g}" y="{y - 7:g}" width="44" height="6" rx="3"/>'
    if part:
        yield f'<rect class="{level}" x="{x:g}" y="{y - 7:g}" width="{max(3.0, 44 * share):.1f}" height="6" rx="3"/>'
    yield _text(
        x + 51, y, "q e" if judged and not part else "q", f"{share_text(part, whole)} of {whole:,} {words} match", room - 51
    )


def share_text(part: int, whole: int) -> str:
    """A share in per cent that says 0 and 100 only when it is exactly that."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return (
        f"{min(99.9, max(0.1, 100 * part / whole)):.1f} %" if not 1 <= 100 * part / whole <= 99 else f"{100 * part / whole:.0f} %"
    )


# -- text --------------------------------------------------------------------------------------------------------------


def _text(x: float, y: float, style: str, text: str, room: float) -> str:
    """A line of text, shortened to the room in px that it has. Nothing for no text."""
    advance = {"m": _MONO, "h": 9.4, "t": 7.4, "q": _SMALL}.get(style.split(" ")[0], _SANS)
    shown = _shortened(text, room, advance)
    return f'<text class={quoteattr(style)} x="{x:g}" y="{y:g}">{_safe(shown)}</text>' if shown else ""


def _shortened(text: str, room: float, advance: float) -> str:
    text = " ".join(text.split())
    most = max(4, int(room / advance))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _safe(text: str) -> str:
    """Text for XML; characters that XML cannot hold become a box."""
    return escape("".join(c if c in "\n\t" or (c >= "\x20" and c not in "\ufffe\uffff") else "□" for c in text))


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1] + 'ies' if noun.endswith('y') else noun + 's'}"
