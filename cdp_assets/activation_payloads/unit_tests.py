"""Runs a space's activation tests: each case becomes a unit, as if the warehouse had held it, and its payload is compared."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from cdp_assets.activation_payloads.audience_rows import Candidate
from cdp_assets.activation_payloads.event_rows import sent_messages
from cdp_assets.activation_payloads.mapping_kit.values import text
from cdp_assets.activation_payloads.message import EntityRow, Member, plain
from cdp_assets.activation_payloads.model_rows import ModelRow
from cdp_assets.activation_payloads.rules import PayloadError, target_of
from cdp_assets.activation_payloads.unit_payload import OK, UnitMapper, UnitPayload, audience_units, event_unit, row_unit
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.activation_tests import Case
from cdp_assets.space.documents import read_text, read_yaml
from cdp_assets.space.models.activations import Activation, ColumnSubject
from cdp_assets.space.space import Problem, Space
from cdp_assets.space.transforming import Judge


def failing_cases(space: Space) -> list[Problem]:
    """One problem for each case whose payloads are not those that it expects, at the case's line."""
    found = []
    for key, tests in space.tests.items():
        file = f"tests/{key}.yaml"
        document, _ = read_yaml(read_text(space.directory / file, file)[0] or "", file)
        activation = space.activations[tests.activation]
        for number, case in enumerate(tests.cases):
            said = _failure(space, activation, case)
            if said:
                line = document.line("cases", number) if document is not None else 1
                remedy = f"correct the case, or activations/{activation.key}.yaml"
                found.append(Problem(file, line, f"case '{case.name}': {said}", remedy))
    return found


def _failure(space: Space, activation: Activation, case: Case) -> str:
    """What is wrong with a case's payloads; '' when nothing is."""
    try:
        mapped = list(_mapped(space, activation, case))
    except PayloadError as error:
        return str(error)
    verdicts = sorted({unit.verdict for unit in mapped} - {OK})
    if case.withheld is not None:
        if verdicts == [case.withheld] and all(unit.verdict != OK for unit in mapped):
            return ""
        return f"expected to be withheld ({case.withheld}), and it is {', '.join(verdicts) or 'sent'}"
    if verdicts:
        details = sorted({unit.detail for unit in mapped if unit.detail})
        return f"withheld: {', '.join(verdicts)}" + (f" ({'; '.join(details)})" if details else "")
    expected = [case.expect] if isinstance(case.expect, Mapping) else list(case.expect or ())
    column = "exit_payload" if case.leaves else "payload"
    wanted, got = _lines([plain(payload) for payload in expected]), _lines([orjson.loads(unit.row[column]) for unit in mapped])
    if wanted == got:
        return ""
    difference = [line for line in difflib.ndiff(wanted, got) if line[0] in "-+"]
    return "the payload differs, - expected, + made: " + "; ".join(line.rstrip(",") for line in difference)


def _lines(payloads: list[Any]) -> list[str]:
    return orjson.dumps(payloads, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2).decode().splitlines()


def _mapped(space: Space, activation: Activation, case: Case) -> Iterator[UnitPayload]:
    mapper = UnitMapper(activation, target_of(space, activation))
    if case.row is not None:
        yield mapper.map(row_unit(activation, _model_row(space, activation, case.row)))
        return
    if activation.events is not None:
        message = {"messageId": "case", **{name: plain(value) for name, value in (case.message or {}).items()}}
        found = sent_messages(space, activation, Judge(activation.events.where))(message, None)
        if found is not None:
            person = {**case.identifiers, **{name: plain(value) for name, value in case.traits.items()}}
            refused = "filter" if found[1] else ""
            yield mapper.map(event_unit(activation, found[0], person, subject="case", refused=refused, detail=found[1]))
        return
    context: dict[str, list[EntityRow]] = {}
    _gather(space.graph, case.entities, None, "", context)
    known = {name: case.traits[name] for name in activation.personalization.traits if name in case.traits}
    member = Member(
        "case",
        case.identifiers,
        {name: plain(value) for name, value in known.items()},
        {path: tuple(sorted(rows, key=lambda row: (row.entity_id, row.parent))) for path, rows in context.items()},
    )
    for unit in audience_units(space, activation, [Candidate(member, consents=True, suppressed=False)]):
        yield mapper.map(unit)


def _gather(
    graph: DataGraph, entities: Mapping[str, Any], parent: str | None, parent_id: str, context: dict[str, list[EntityRow]]
) -> None:
    """The rows by node path, those of a row below it with its key as their parent."""
    nodes = {node.relationship.slug: node for node in graph.nodes() if node.parent == parent}
    for slug, rows in entities.items():
        node = nodes[slug]
        below = {child.relationship.slug for child in graph.nodes() if child.parent == node.path}
        key = node.entity.primary_key
        for row in rows:
            own = {name: plain(value) for name, value in row.items() if name not in below}
            entity_id = text(own[key])
            values = {key: own[key], **{name: value for name, value in own.items() if name != key}}
            context.setdefault(node.path, []).append(EntityRow(entity_id, parent_id, values))
            deeper = {name: value for name, value in row.items() if name in below}
            _gather(graph, deeper, node.path, entity_id, context)


def _model_row(space: Space, activation: Activation, row: Mapping[str, Any]) -> ModelRow:
    values = {name: plain(value) for name, value in row.items()}
    subject = activation.consent.subject
    named = values.setdefault(subject.column, None) if isinstance(subject, ColumnSubject) else None
    key = values.get(space.models[str(activation.model)].primary_key)
    return ModelRow(text(key), values, None if named is None else text(named), consents=True, suppressed=False)
