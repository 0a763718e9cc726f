"""Event filters and transformations of stored messages, as stages: rows of Arrow in, rows and refusals out."""

from __future__ import annotations

import copy
import datetime as dt
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.filters import event_filter_stages, transformation_stages
from cdp_assets.raw_events.parse import CONSENT_EVENT, Message, parse_line
from cdp_assets.raw_events.schemas import QUARANTINE_REASONS
from cdp_assets.raw_events.stages import MESSAGE_BATCH, REFUSED, Stage, StageResult
from cdp_assets.space import message_rows
from cdp_assets.space.fql import FqlError, compile
from cdp_assets.space.load import load_space
from cdp_assets.space.models.settings import EventStreamFilter, SpaceConfig
from cdp_assets.space.space import Space, SpaceError
from cdp_assets.space.transformations import Transformation
from cdp_assets.space.transforming import TransformationError, Withheld, transform, transformers

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"


def event(number: int = 1, **fields: Any) -> dict[str, Any]:
    message = {
        "type": "track",
        "event": "Card Used",
        "userId": "u1",
        "messageId": f"m{number}",
        "receivedAt": "2026-01-01T10:00:00.250Z",
        "properties": {"amount": 10, "email": "ann@x.cz"},
        **fields,
    }
    return {key: value for key, value in message.items() if value is not None}


def rows(*messages: dict[str, Any], source: str | None = None) -> pa.Table:
    """Messages as the parser hands them to stages."""
    found = []
    for line, message in enumerate(messages, start=1):
        parsed = parse_line(json.dumps(message).encode())
        assert isinstance(parsed, Message), parsed
        place = {"file_hash": "h", "file": "f.jsonl", "line": line, "source": message.get("source", source)}
        found.append({**place, **parsed._asdict()})
    return pa.Table.from_pylist(found, schema=MESSAGE_BATCH)


def made(key: str = "one", **fields: Any) -> Transformation:
    return Transformation.model_validate({"key": key, "name": key, "if": "type = 'track'", **fields})


def space(*items: Transformation, filters: list[EventStreamFilter] | None = None) -> Space:
    config = SpaceConfig(name="test", start_date=dt.date(2026, 1, 1)).model_copy(update={"event_filters": tuple(filters or ())})
    graph = DataGraph.__new__(DataGraph)  # no stage looks at it
    return Space(Path("/nowhere"), config, graph, transformations={item.key: item for item in items})


def transforming(*items: Transformation, **environment: str) -> Stage:
    (stage,) = transformation_stages(space(*items), environment)
    return stage


def filtering(*conditions: str) -> Stage:
    filters = [EventStreamFilter(name=f"filter {number}", drop_if=text) for number, text in enumerate(conditions, start=1)]
    (stage,) = event_filter_stages(space(filters=filters))
    return stage


def refusals(result: StageResult) -> list[tuple[int, str, str]]:
    assert result.refused.schema == REFUSED
    assert result.messages.schema == MESSAGE_BATCH
    assert result.violations.num_rows == 0
    return [(row["line"], row["reason"], row["detail"]) for row in result.refused.to_pylist()]


def values(result: StageResult, column: str) -> list[Any]:
    return result.messages[column].to_pylist()


# -- event filters -------------------------------------------------------------------------------------------------------


def test_a_message_that_any_filter_meets_is_dropped_with_the_name_of_the_first() -> None:
    stage = filtering("event = 'Other'", "properties.amount > 5", "type = 'track'")
    result = stage.apply(rows(event(1), event(2, properties={"amount": 1}), event(3, type="page", event=None, properties={})))
    assert refusals(result) == [(1, "event_filter", "filter 2"), (2, "event_filter", "filter 3")]
    assert values(result, "line") == [3]


def test_a_filter_reads_the_message_that_the_source_sent() -> None:
    page = event(1, type="page", event=None, name="Home", category="Shop", anonymousId="a1", context={"page": {"path": "/x"}})
    kept = rows(page)
    conditions = [
        "name = 'Home'",
        "category = 'Shop'",
        "anonymousId = 'a1'",
        "userId = 'u1'",
        "messageId = 'm1'",
        "receivedAt = '2026-01-01T10:00:00.250Z'",
        "context.page.path = '/x'",
        "event = null",
        "version = null",
        "traits = null",
    ]
    for condition in conditions:
        assert filtering(condition).apply(kept).messages.num_rows == 0, condition
    # the table calls pages "Page Viewed"; the message has no event
    assert filtering("event = 'Page Viewed'").apply(kept).messages.num_rows == 1


def test_ae8_5_invalid_fql_in_a_filter_withholds_the_event_with_its_reason(tmp_path: Path) -> None:
    """Segment: invalid FQL in a filter -> the event is withheld with its reason, not delivered."""
    # a space that says so does not load
    text = (MINI / "space.yaml").read_text() + 'event_filters:\n  - name: broken\n    drop_if: userId = oops"\n'
    (tmp_path / "space.yaml").write_text(text)
    (tmp_path / "data_graph.hcl").write_text((MINI / "data_graph.hcl").read_text())
    with pytest.raises(SpaceError, match=r"drop_if': a text is not closed \(character 14\)"):
        load_space(tmp_path)
    # met at run time all the same, nothing passes, whether the filter stands alone or beside others
    broken = EventStreamFilter.model_construct(name="broken", drop_if='userId = oops"')
    good = EventStreamFilter(name="good", drop_if="event = 'Other'")
    for filters in ([broken], [good, broken]):
        (stage,) = event_filter_stages(space(filters=filters))
        result = stage.apply(rows(event(1), event(2, type="page", event=None)))
        assert result.messages.num_rows == 0
        assert refusals(result) == [(line, "fql_invalid", "event filter broken: a text is not closed") for line in (1, 2)]
    transformation = made("broken", new_event_name="A").model_copy(update={"if_": "userId = "})
    result = transforming(transformation).apply(rows(event(1)))
    assert refusals(result) == [(1, "fql_invalid", "transformation broken: the text ends where a value should be")]


def test_a_filter_without_an_answer_withholds_only_the_messages_that_it_has_none_for() -> None:
    messages = rows(event(1, properties={"test": True}), event(2, properties={"test": "secret"}), event(3))
    result = filtering("properties.test").apply(messages)
    assert [(line, reason) for line, reason, _ in refusals(result)] == [(1, "event_filter"), (2, "fql_invalid")]
    assert "secret" not in str(result.refused.to_pylist())
    assert values(result, "line") == [3]


# -- transformations -----------------------------------------------------------------------------------------------------


def test_a_dropped_message_is_refused_with_the_transformation() -> None:
    result = transforming(made("no_cards", drop=True, **{"if": "event = 'Card Used'"})).apply(
        rows(event(1), event(2, event="Login"))
    )
    assert refusals(result) == [(1, "transformation_dropped", "transformation no_cards")]
    assert values(result, "event") == ["Login"]


def test_what_a_person_agreed_to_is_never_dropped() -> None:
    withdrawal = event(1, event=CONSENT_EVENT, context={"consent": {"categoryPreferences": {"ads": False}}})
    messages = rows(withdrawal, event(2))
    for stage in (filtering("type = 'track'"), transforming(made("all", drop=True, **{"if": "type = 'track'"}))):
        assert values(stage.apply(messages), "line") == [1]


def test_a_rewritten_message_keeps_every_other_column_as_it_is() -> None:
    before = rows(event(1, traits={"a": 1}, context={"ip": "::1"}), event(2, event="Login"))
    stage = transforming(
        made(new_event_name="Card Paid", rename={"properties.amount": "properties.total"}, **{"if": "event = 'Card Used'"})
    )
    result = stage.apply(before)
    assert refusals(result) == []
    assert values(result, "event") == ["Card Paid", "Login"]
    assert values(result, "event_slug") == ["card_paid", "login"]
    assert values(result, "properties") == ['{"email":"ann@x.cz","total":10}', '{"amount":10,"email":"ann@x.cz"}']
    same = [name for name in MESSAGE_BATCH.names if name not in ("event", "event_slug", "properties")]
    assert result.messages.select(same) == before.select(same)


def test_hashes_computed_fields_and_allowed_fields_reach_the_rows() -> None:
    hashed = transforming(made(hash={"paths": ["properties.email"], "key": "${PEPPER}"}), PEPPER="x").apply(rows(event()))
    assert len(json.loads(values(hashed, "properties")[0])["email"]) == 64
    defined = made(fql_defined={"fql": "uppercase(userId)", "property": "traits.name"})
    assert values(transforming(defined).apply(rows(event())), "traits") == ['{"name":"U1"}']
    allowed = transforming(made(allow=["properties.amount"])).apply(rows(event()))
    assert values(allowed, "properties") == ['{"amount":10}']


def test_a_transformation_concerns_the_messages_of_its_sources() -> None:
    messages = rows(event(1), event(2)).set_column(0, MESSAGE_BATCH.field("source"), pa.array(["web", None]))
    result = transforming(made(drop=True, sources=["web"])).apply(messages)
    assert values(result, "message_id") == ["m2"]


def test_transformations_of_destinations_and_disabled_ones_are_no_stage() -> None:
    assert transformation_stages(space(made(drop=True, destination="ads"), made("two", drop=True, enabled=False)), {}) == []
    assert event_filter_stages(space()) == []


def test_a_missing_hash_key_stops_the_build_before_any_message() -> None:
    with pytest.raises(TransformationError, match="PEPPER is not set"):
        transforming(made(hash={"paths": ["properties.email"], "key": "${PEPPER}"}))


def test_rows_that_no_condition_can_meet_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = rows(event(1), event(2, event="Login", properties={"never": 1}), event(3, type="page", event=None))
    logins = rows(event(1), event(2, event="Login", context={"never": 1}))
    seen: list[str] = []
    real = message_rows.orjson.loads
    monkeypatch.setattr(message_rows.orjson, "loads", lambda text: seen.append(text) or real(text))
    condition = "event = 'Card Used' and properties.amount > 1"
    transforming(made(rename={"properties.amount": "properties.total"}, **{"if": condition})).apply(cards)
    filtering("event = 'Card Used' and context.ip = '::1'").apply(logins)
    assert seen == ['{"amount":10,"email":"ann@x.cz"}']


def test_a_field_that_moves_too_deep_is_refused_not_raised() -> None:
    nested: Any = 1
    for _ in range(252):
        nested = {"a": nested}
    stage = transforming(made(rename={"properties.x": "properties.y.y.y"}))
    result = stage.apply(rows(event(properties={"x": nested})))
    assert refusals(result) == [(1, "too_deep", "properties is nested too deeply")]


def test_every_reason_of_the_stages_is_a_known_one() -> None:
    assert {"event_filter", "transformation_dropped", "fql_invalid", "too_deep"} <= set(QUARANTINE_REASONS)


# -- any messages, any cut -----------------------------------------------------------------------------------------------

JSON = st.dictionaries(
    st.sampled_from(["amount", "email", "test"]),
    st.none()
    | st.booleans()
    | st.integers(0, 9)
    | st.sampled_from(["a@x", ""])
    | st.dictionaries(st.just("a"), st.integers(0, 1)),
    max_size=3,
)
FIELDS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["track", "identify", "page"]),
        "event": st.sampled_from(["Card Used", "Login"]),
        "properties": JSON,
    },
    optional={"traits": JSON, "context": JSON, "source": st.sampled_from(["web", "app"])},
)
STEPS = (
    made("a", rename={"properties.amount": "properties.total"}, **{"if": "event = 'Card Used'"}),
    made("b", drop=True, sources=["web"], **{"if": "properties.amount > 5"}),
    made("c", hash={"paths": ["properties.email", "traits.email"]}, **{"if": "type in ['track', 'identify']"}),
    made("d", new_event_name="Test", allow=["properties.amount"], **{"if": "properties.test and type = 'track'"}),
)


def cut_up(stage: Stage, messages: pa.Table, cuts: list[int]) -> tuple[list[Any], list[Any]]:
    places = [0, *sorted(min(cut, messages.num_rows) for cut in cuts), messages.num_rows]
    parts = [stage.apply(messages.slice(start, end - start)) for start, end in itertools.pairwise(places)]
    return [row for part in parts for row in part.messages.to_pylist()], [
        row for part in parts for row in part.refused.to_pylist()
    ]


@settings(max_examples=150, deadline=None)
@given(st.lists(FIELDS, max_size=8), st.lists(st.integers(0, 8), max_size=4))
def test_a_result_does_not_depend_on_how_rows_are_cut_into_batches(given_fields: list[dict[str, Any]], cuts: list[int]) -> None:
    messages = rows(*(event(number, **fields) for number, fields in enumerate(given_fields)))
    for stage in (transforming(*STEPS), filtering("properties.test", "event = 'Login' and traits.amount < 3")):
        whole = stage.apply(messages)
        lines = sorted([*values(whole, "line"), *whole.refused["line"].to_pylist()])
        assert lines == messages["line"].to_pylist()
        assert cut_up(stage, messages, cuts) == (whole.messages.to_pylist(), whole.refused.to_pylist())
        chunked = pa.concat_tables([messages.slice(0, 2), messages.slice(2)])
        assert stage.apply(chunked).messages.to_pylist() == whole.messages.to_pylist()


@settings(max_examples=150, deadline=None)
@given(st.lists(FIELDS, min_size=1, max_size=5))
def test_a_stage_says_of_each_row_what_the_pure_functions_say_of_its_message(given_fields: list[dict[str, Any]]) -> None:
    sent = [event(number, **fields) for number, fields in enumerate(given_fields)]
    stage, steps = transforming(*STEPS), transformers({item.key: item for item in STEPS}, None, {})
    result = stage.apply(rows(*sent))
    kept = {row["line"]: row for row in result.messages.to_pylist()}
    refused = {row["line"]: row for row in result.refused.to_pylist()}
    for line, message in enumerate(sent, start=1):
        document = {key: value for key, value in message.items() if key != "event" or message["type"] == "track"}
        outcome = transform(steps, message.get("source"), copy.deepcopy(document))
        if isinstance(outcome, Withheld):
            assert (refused[line]["reason"], refused[line]["detail"]) == outcome
            continue
        for field in ("properties", "traits", "context"):
            text = kept[line][field]
            assert (json.loads(text) if text else None) == outcome.get(field, document.get(field))
        expected = outcome.get("event", document.get("event"))
        assert message["type"] != "track" or kept[line]["event"] == expected


@settings(max_examples=100, deadline=None)
@given(
    FIELDS,
    st.sampled_from(
        ["properties.test", "event = 'Login' and !properties.test", "type in ['page', 'identify'] and traits.amount > 2"]
    ),
)
def test_a_filter_stage_agrees_with_its_condition(fields: dict[str, Any], condition: str) -> None:
    message = event(1, **fields)
    document = {key: value for key, value in message.items() if key != "event" or message["type"] == "track"}
    result = filtering(condition).apply(rows(message))
    try:
        met = compile(condition)(document)
    except FqlError:
        met = True
    assert result.messages.num_rows == (0 if met else 1)
