"""The page for people: what each system received. Personal values are masked unless asked for.

The page is read by somebody who wants to see that a sync did what it says; everything for programs is under ``/__twin``.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

from resources.sandbox.store import Record, Store
from resources.sandbox.twin import Twin

_ROWS: Final = 25
_CALLS: Final = 15
_COLUMNS: Final = 12
_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --mute: #777; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 78rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { margin: 2.5rem 0 .25rem; } h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p, .mute { color: var(--mute); } nav a { margin-right: 1rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); font-weight: 600; } tr:last-child td { border-bottom: 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.bad { color: #c33; font-weight: 600; }
"""


def mask(value: Any) -> Any:
    """A value as strangers may see it: numbers, truth values and nothing as they are; of a text the first letter and its shape."""
    if not isinstance(value, str) or not value:
        return value
    local, at, _ = value.partition("@")
    return f"{local[:1]}•••@•••" if at else f"{value[0]}•••"


def render(store: Store, twins: list[Twin], unmasked: bool) -> str:
    """The whole page as HTML."""
    show = "<a href='/'>Mask values</a>" if unmasked else "<a href='/?unmask=1'>Show values</a>"
    links = "".join(f"<a href='#{t.system}'>{escape(t.title)}</a>" for t in twins)
    sections = "".join(_section(store, twin, unmasked) for twin in twins)
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Sandbox destinations</title><style>{_STYLE}</style></head><body><h1>Sandbox destinations</h1>"
        "<p>Local doubles of the destinations' APIs. Nothing here has left this machine.</p>"
        f"<nav>{links}{show}</nav>{sections}</body></html>"
    )


def _section(store: Store, twin: Twin, unmasked: bool) -> str:
    sizes = store.sizes(twin.system)
    parts = [f"<h2 id='{twin.system}'>{escape(twin.title)}</h2><p>{_summary(store, twin, sizes)}</p>"]
    for object, size in sizes.items():
        shown = store.records(twin.system, object, _ROWS)
        note = f" <span class='mute'>first {_ROWS} of {size:,}</span>" if size > _ROWS else f" <span class='mute'>{size:,}</span>"
        parts.append(f"<h3>{escape(object)}{note}</h3>{_records_table(shown, unmasked)}")
    if calls := store.calls(twin.system, limit=_CALLS, newest_first=True):
        parts.append(f"<h3>Latest calls</h3>{_calls_table(calls, unmasked)}")
    return "".join(parts)


def _summary(store: Store, twin: Twin, sizes: dict[str, int]) -> str:
    calls = store.call_count(twin.system)
    if not calls:
        return "Nothing received yet."
    plans = len(store.faults(twin.system))
    faults = f", {plans} fault plan{'s' if plans > 1 else ''} active" if plans else ""
    return f"{sum(sizes.values()):,} records, {calls:,} calls{faults}."


def _records_table(records: list[Record], unmasked: bool) -> str:
    names = list(dict.fromkeys(name for record in records for name in record.fields))[:_COLUMNS]
    rows = [[record.id, *(record.fields.get(name) for name in names), record.updated_at[:19]] for record in records]
    cells = [
        "".join(_cell(value if unmasked or n in (0, len(row) - 1) else mask(value)) for n, value in enumerate(row))
        for row in rows
    ]
    return _table(["id", *names, "updated (UTC)"], cells)


def _calls_table(calls: list[dict[str, Any]], unmasked: bool) -> str:
    cells = []
    for call in calls:
        status = call["status"] if call["status"] is not None else "no answer"
        bad = "" if isinstance(status, int) and status < 400 else " class='bad'"
        path = call["path"] if unmasked else "/".join(mask(part) if "@" in part else part for part in call["path"].split("/"))
        cells.append(
            _cell(call["time"][:19])
            + _cell(call["method"])
            + _cell(path)
            + _cell(call["size"])
            + f"<td{bad}>{status}</td>"
            + _cell(call["fault"] or "")
        )
    return _table(["time (UTC)", "method", "path", "bytes", "status", "fault"], cells)


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<td class='number'>{value:,}</td>"
    return f"<td>{escape('' if value is None else str(value))}</td>"


def _table(names: list[str], rows: list[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
