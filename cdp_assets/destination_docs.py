"""The page of each destination type, from its capabilities and from what its connector says of itself. ``cdp docs`` writes them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from resources.destinations import Bulk, Capabilities, FieldRule
from resources.destinations.registry import CONNECTORS, capabilities

_RESEND = {
    "set": "the same record may be sent again at any time",
    "upsert": "the same record may be sent again at any time",
    "append": "nothing tells two sendings apart: what got no answer stays `unknown` until somebody decides",
    "insert_only": "a record is looked up before it is sent again",
}
_ATTRIBUTION = {
    "positional": "the answer has an entry for each record, in order",
    "keyed": "the answer names the records by their key",
    "none": "the answer names no record: a refused batch is halved until the one at fault stands alone",
    "whole_batch": "a batch with one bad record is refused as a whole: it is halved until that one stands alone",
}
_RETRACT = {
    "remove": "the record is taken out",
    "flag_false": "the membership flag (`flag_field`) is set to false on a record that exists",
    "none": "cannot be taken back",
}
_OUTCOMES = """## What each outcome means

| outcome | means |
|---|---|
| `delivered` | the system confirmed the record; a warning says what it did not confirm |
| `rejected` | the record is wrong and stays wrong: a dead letter with the system's code, tried again when the payload changes or by `cdp ledger replay` |
| `waiting` | nothing was done: throttled, out of quota, no permission, a lock; tried again from the instant in `not_before` on |
| `unknown` | it was sent and there was no answer |
| `withheld` | no consent, suppressed, no identifier, or a payload that does not fit the fields below |
| `held` | the whole sync stands still until `cdp release` |

Reasons are the system's own codes. `auth:…` waits for a person to renew credentials, `config:…` for one to correct settings, `quota:…` for
the next day of the quota.
"""


def destination_pages() -> dict[str, str]:
    """Type -> its page in Markdown."""
    return {kind: _page(kind) for kind in CONNECTORS}


def _page(kind: str) -> str:
    said = importlib.import_module(CONNECTORS[kind]).__doc__ or ""
    title, _, rest = said.strip().partition("\n")
    rest = re.sub(r"\nEvidence tags:.*", "", rest, flags=re.DOTALL).strip()
    general = capabilities(kind)
    parts = [f"# {title.rstrip('.')}", f"Type `{kind}` in `space.yaml`.", _paragraphs(rest)]
    for action in general.actions:
        parts.append(f"## Action `{action}`\n\n{_limits(capabilities(kind, action))}")
    parts += [*_fields(general), _OUTCOMES.strip()]
    if general.evidence:
        parts.append(f"Vendor's documentation: <{general.evidence}>")
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> str:
    """The connector's words: what is set in columns stays so, settings and credentials become items."""
    lines: list[str] = []
    for line in text.split("\n"):
        started = re.match(r"(Settings of|Credentials:)", line) is not None
        lines.append(f"\n{line}" if started and lines and lines[-1] else line)
    return "\n".join(lines).replace("``", "`")


def _limits(found: Capabilities) -> str:
    rows = [
        ("records in a call", f"{found.batch_rows:,}, at most {found.batch_bytes:,} bytes"),
        *([("many records", _bulk(found.bulk))] if found.bulk else []),
        ("pace", "; ".join(f"{rate.calls:,} calls in {rate.seconds:g} s" for rate in found.rates) or "as the system answers"),
        ("calls a day", f"{found.daily_calls:,}, shared with other integrations" if found.daily_calls else "no limit known"),
        ("sent twice", _RESEND[found.resend]),
        ("a bad record", _ATTRIBUTION[found.attribution]),
        ("a withdrawal", _RETRACT[found.retract]),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _bulk(bulk: Bulk) -> str:
    """A sync of many records goes as jobs."""
    return f"a sync of {bulk.from_rows:,} or more goes as asynchronous jobs of up to {bulk.batch_rows:,} records"


def _fields(found: Capabilities) -> Iterator[str]:
    for thing, rules in found.fields.items():
        named = {name: rule for name, rule in rules.items() if name != "*"}
        title = f"## Fields of `{thing}`" if thing else "## Fields"
        key = found.default_key_fields.get(thing)
        lines = [f"The destination key is `{key}` unless `key_field` names another one."] if key else []
        if named:
            table = [
                "| field | takes |",
                "|---|---|",
                *(f"| `{name}` | {_takes(rule)} |" for name, rule in sorted(named.items())),
            ]
            lines.append("\n".join(table))
        lines.append("Any other field is passed on." if "*" in rules else "Other fields are refused before anything is sent.")
        yield "\n\n".join([title, *lines])


def _takes(rule: FieldRule) -> str:
    words: list[str] = ["anything" if rule.kind == "any" else rule.kind]
    words += ["required"] if rule.required else []
    words += [f"at most {rule.max_length} characters"] if rule.max_length else []
    return ", ".join(words)
