"""What the tables of the activation_payloads room must look like. Enforced by :mod:`cdp_assets.quality`.

The rules of one activation say again, in the warehouse and without the code that built the rows, what may be sent: with
consent, fitting the destination, and to nobody where nobody is concerned. The sync sends nothing that they did not pass.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.activation_payloads.consent import identifier_leaks
from cdp_assets.activation_payloads.people import LATEST
from cdp_assets.activation_payloads.rules import target_of
from cdp_assets.activation_payloads.tables import PAYLOADS, TIMESTAMP_TOKEN
from cdp_assets.quality import RowRule, not_in, schema_of
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import canonical_ids_as_of, consent_as_of
from resources.destinations import FieldRule
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

CONSENTED: Final = "consented"
FIELD_RULES: Final = "destination_fields"
NOBODY: Final = "names_nobody"
COMPLETE: Final = "ok_is_complete"
CONTENT_FREE: Final = "withheld_keeps_nothing"
BARE_RETRACT: Final = "retract_is_bare"

OK: Final = "ok"
VERDICTS: Final = (OK, "consent", "suppressed", "no_identifier", "no_subject", "too_large", "filter", "invalid")
# Verdicts under which not even the content is kept.
_CONTENT_FREE: Final = ("consent", "suppressed", "no_subject", "too_large")

_PAYLOADS = schema_of(
    PAYLOADS,
    not_null=("verdict", "as_of", "definition_revision"),
    checks={"unit": pa.Check.str_length(min_value=1), "verdict": pa.Check.isin(VERDICTS)},
)


def payloads_schema() -> pa.DataFrameSchema:
    """Payloads: each unit once per activation, with a known verdict."""
    return _PAYLOADS


def payload_rules(space: Space, activation: Activation, instant: dt.datetime = LATEST) -> list[RowRule]:
    """The rules of one activation's rows. ``instant``: consent and identifiers known before it count; default all that is known.

    By name: ``consented``, ``destination_fields``, ``names_nobody`` (subject none), ``ok_is_complete``,
    ``withheld_keeps_nothing`` and ``retract_is_bare``. Raises PayloadError when the activation has no destination key.
    """
    rules = [
        RowRule(COMPLETE, "a payload that may go has content, hash and key", _incomplete),
        RowRule(CONTENT_FREE, "without consent, subject or room for it, no content is kept", _content_kept),
    ]
    if activation.consent.subject == "none":
        rules.append(_names_nobody(space, activation, instant))
    else:
        rules.append(_consented(space, activation, instant))
    target = target_of(space, activation)
    if target.fields is not None:
        rules.append(_destination_fields(target.fields, sorted(activation.mapping)))
    kept = {target.key_field, target.flag_field}
    rules.append(_bare_retract([name for name in _plain_fields(activation.mapping) if name not in kept]))
    return rules


def _of(activation: Activation, table: ir.Table) -> ir.Table:
    """The rows of the activation that may be sent."""
    return table.filter((table.activation == activation.key) & (table.verdict == OK))


def _plain_fields(mapping: Mapping[str, object] | Sequence[str]) -> list[str]:
    return [name for name in sorted(mapping) if not name.startswith("@") and name != "_metadata"]


def _any(conditions: Sequence[ir.BooleanValue]) -> ir.BooleanValue:
    # NULL (an absent field) breaks nothing here; rules that need the field say so themselves.
    return reduce(lambda a, b: a | b, [condition.fill_null(False) for condition in conditions], ibis.literal(False))


# -- rows by themselves --------------------------------------------------------------------------------------------------


def _incomplete(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    missing = table.payload.isnull() | table.payload_hash.isnull() | (table.destination_key.fill_null("") == "")
    return table.filter((table.verdict == OK) & missing).select("activation", "unit", "verdict")


def _content_kept(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    kept = table.payload.notnull() | table.exit_payload.notnull()
    return table.filter(table.verdict.isin(_CONTENT_FREE) & kept).select("activation", "unit", "verdict")


def _bare_retract(fields: Sequence[str]) -> RowRule:
    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        said = _any([fn.json_text(table.retract_payload, name).notnull() for name in fields])
        return table.filter(said).select("activation", "unit", "verdict")

    return RowRule(BARE_RETRACT, "a retract holds the destination key and the membership flag, nothing else", failing)


# -- consent ---------------------------------------------------------------------------------------------------------------


def _consented(space: Space, activation: Activation, instant: dt.datetime) -> RowRule:
    categories = sorted(set(activation.consent.categories))

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        states = consent_as_of(warehouse, space.graph, instant)
        states = states.filter((states.value == "true") & states.category.isin(categories))
        counted = states.group_by("canonical_segment_id").aggregate(granted=states.category.nunique())
        granted = counted.filter(counted.granted == len(categories)).select(holder="canonical_segment_id")
        # A row may still name a profile that has merged since: the one that it became decides.
        people = canonical_ids_as_of(warehouse, space.graph, instant)
        consenting = people.semi_join(granted, people.canonical_segment_id == granted.holder)
        rows = not_in(_of(activation, table), "canonical_segment_id", consenting, "segment_id")
        return rows.select("activation", "unit", "canonical_segment_id")

    return RowRule(CONSENTED, f"everyone concerned consents to {', '.join(categories)}", failing)


def _names_nobody(space: Space, activation: Activation, instant: dt.datetime) -> RowRule:
    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        return identifier_leaks(warehouse, space, activation, instant)

    return RowRule(NOBODY, "no text of a payload equals an identifier of a person", failing)


# -- the destination's fields -------------------------------------------------------------------------------------------


def _destination_fields(fields: Mapping[str, FieldRule], mapped: Sequence[str]) -> RowRule:
    """Fields are read as text: what spells a number, a truth or a date is one, as the payloads themselves are judged."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        broken: dict[str, ir.BooleanValue] = {}
        for name in sorted(fields):
            value = fn.json_text(table.payload, name)
            if fields[name].required:
                broken[f"{name} is required"] = value.fill_null("") == ""
            broken |= {f"{name} {words}": wrong for words, wrong in _wrong(fields[name], value).items()}
        if "*" not in fields:
            for name in _plain_fields(mapped):
                if name not in fields:
                    broken[f"{name} is not a field of the object"] = fn.json_text(table.payload, name).notnull()
        found = {words: wrong.fill_null(False) & (table.verdict == OK) for words, wrong in broken.items()}
        first = ibis.cases((ibis.literal(False), ""), *((wrong, words) for words, wrong in found.items()), else_="")
        rows = table.select("activation", "unit", problem=first)
        return rows.filter(rows.problem != "")

    return RowRule(FIELD_RULES, "every payload that may go fits the destination's fields", failing)


_EMAIL = "^[^@ ]+@[^@ ]+[.][^@ ]+$"
_DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_WRONG: dict[str, Callable[[ir.StringValue], ir.BooleanValue]] = {
    "number": lambda v: fn.try_double(v).isnull(),
    "integer": lambda v: fn.try_double(v).isnull() | (fn.try_double(v) % 1 != 0),
    "boolean": lambda v: v.notin(["true", "false"]),
    "email": lambda v: ~v.re_search(_EMAIL),
    # The token becomes the instant at which the message is sent.
    "datetime": lambda v: fn.try_timestamp(v).isnull() & (v != TIMESTAMP_TOKEN),
    "date": lambda v: (fn.try_timestamp(v).isnull() | ~v.re_search(_DATE)) & (v != TIMESTAMP_TOKEN),
}


def _wrong(rule: FieldRule, value: ir.StringValue) -> dict[str, ir.BooleanValue]:
    given = value.notnull() & ~(ibis.literal(rule.required) & (value == ""))
    found: dict[str, ir.BooleanValue] = {}
    if rule.kind in _WRONG:
        found[f"is no {rule.kind}"] = given & _WRONG[rule.kind](value)
    if rule.max_length is not None:
        found[f"is longer than {rule.max_length} characters"] = given & (value.length() > rule.max_length)
    return found
