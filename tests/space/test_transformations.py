"""Transformations: what a space folder may say of them, and what they make of one message."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_assets.space.load import load_space
from cdp_assets.space.space import SpaceError
from cdp_assets.space.transformations import Transformation
from cdp_assets.space.transforming import TransformationError, Withheld, for_destination

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"
ORDER: dict[str, Any] = {
    "type": "track",
    "event": "Order Completed",
    "userId": "u1",
    "properties": {"price": 5, "email": "Ann@Example.com", "address": {"city": "Brno", "geo": {"lat": 49.2}}, "tags": ["a", "b"]},
    "context": {"page": {"path": "/a"}, "consent": {"categoryPreferences": {"ads": True}}},
}


def made(key: str = "one", **fields: Any) -> Transformation:
    return Transformation.model_validate({"key": key, "name": key, "if": "type = 'track'", **fields})


def result(*transformations: Transformation, message: Any = ORDER, source: str | None = None, **environment: str) -> Any:
    """What the destination ads gets; the message itself stays as it is."""
    before = copy.deepcopy(message)
    chosen = {item.key: item.model_copy(update={"destination": "ads"}) for item in transformations}
    found = for_destination(chosen, "ads", environment)(message, source)
    assert message == before
    return found


# -- what they do --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"new_event_name": "Sale"}, {"event": "Sale"}),
        (
            {
                "rename": {"properties.price": "properties.cost", "properties.address.city": "properties.town"},
                "if": "userId = 'u1'",
            },
            {
                "properties": {
                    "email": "Ann@Example.com",
                    "address": {"geo": {"lat": 49.2}},
                    "tags": ["a", "b"],
                    "cost": 5,
                    "town": "Brno",
                }
            },
        ),
        (
            {"rename": {"properties.nothing": "properties.price", "properties.email.domain": "properties.domain"}},
            {},
        ),
        (
            {"rename": {"properties.price": "properties.email", "properties.email": "properties.price"}},
            {"properties": {**ORDER["properties"], "price": "Ann@Example.com", "email": 5}},
        ),
        (
            {"set": [{"paths": ["properties.currency", "properties.address.country"], "value": "CZ"}]},
            {
                "properties": {
                    **ORDER["properties"],
                    "currency": "CZ",
                    "address": {**ORDER["properties"]["address"], "country": "CZ"},
                }
            },
        ),
        ({"set": [{"paths": ["traits.vip"], "value": True}]}, {"traits": {"vip": True}}),
        ({"set": [{"paths": ["properties.price.amount", "properties.tags.first"], "value": 1}]}, {}),
        (
            {"fql_defined": {"fql": "lowercase(properties.email)", "property": "properties.email_lower"}},
            {"properties": {**ORDER["properties"], "email_lower": "ann@example.com"}},
        ),
        (
            {"fql_defined": {"fql": "properties.price > 3", "property": "properties.big"}},
            {"properties": {**ORDER["properties"], "big": True}},
        ),
        ({"fql_defined": {"fql": "lowercase(traits.email)", "property": "properties.email"}}, {}),
        (
            {"allow": ["properties.price", "properties.address.geo", "properties.tags.x"]},
            {"properties": {"price": 5, "address": {"geo": {"lat": 49.2}}}},
        ),
        (
            {"allow": ["properties.address", "properties.address.city"]},
            {"properties": {"address": ORDER["properties"]["address"]}},
        ),
        ({"allow": ["traits.name"]}, {}),
        ({"new_event_name": "Sale", "if": "type = 'track' and event = 'Other'"}, {}),
        ({"new_event_name": "Sale", "enabled": False}, {}),
    ],
)
def test_what_a_transformation_makes_of_a_message(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result(made(**fields)) == {**ORDER, **expected}


def test_a_dropped_message_names_the_transformation() -> None:
    assert result(made("no_tests", drop=True)) == Withheld("transformation_dropped", "transformation no_tests")


def test_only_track_events_get_a_new_name() -> None:
    page = {"type": "page", "name": "Home", "userId": "u1"}
    assert result(made(new_event_name="Sale", **{"if": "userId = 'u1'"}), message=page) == page


def test_conditions_judge_the_message_as_it_came_and_actions_build_on_each_other() -> None:
    renamed = made("a", new_event_name="Sale", rename={"properties.price": "properties.cost"})
    hashed = made("b", hash={"paths": ["properties.cost"]}, **{"if": "event = 'Order Completed'"})
    unmet = made("c", drop=True, **{"if": "event = 'Sale'"})
    found = result(unmet, hashed, renamed)
    assert found["event"] == "Sale"
    assert found["properties"]["cost"] == hashlib.sha256(b"5").hexdigest()
    assert "price" not in found["properties"]


@pytest.mark.parametrize(
    ("encoding", "encode"), [("hex", bytes.hex), ("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)]
)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1", "md5"])
@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_hashes(secret: str | None, algorithm: str, encoding: str, encode: Any) -> None:
    settings = {"algorithm": algorithm, "encoding": encoding, "paths": ["properties.email"]} | (
        {"key": "${PEPPER}"} if secret else {}
    )
    text = b"Ann@Example.com"
    digest = hmac.new(secret.encode(), text, algorithm).digest() if secret else hashlib.new(algorithm, text).digest()
    encoded = encode(digest)
    found = result(made(hash=settings), PEPPER=secret or "")
    assert found["properties"]["email"] == (encoded if isinstance(encoded, str) else encoded.decode())


@pytest.mark.parametrize(
    ("path", "at", "content"),
    [
        ("properties.price", "price", "5"),
        ("properties.tags", "tags", '["a","b"]'),
        # nothing of what stands at the end of a path goes out as it is
        ("properties.tags.email", "tags", '["a","b"]'),
        ("properties.email.local", "email", "Ann@Example.com"),
    ],
)
def test_a_hash_takes_whatever_the_path_leads_to(path: str, at: str, content: str) -> None:
    assert result(made(hash={"paths": [path]}))["properties"][at] == hashlib.sha256(content.encode()).hexdigest()


def test_what_is_not_there_is_not_hashed() -> None:
    assert result(made(hash={"paths": ["properties.nothing", "traits.email", "properties.address.nothing.at"]})) == ORDER


@pytest.mark.parametrize("environment", [{}, {"PEPPER": ""}])
def test_without_its_key_nothing_is_hashed_and_nothing_goes_out(environment: dict[str, str]) -> None:
    with pytest.raises(TransformationError, match="PEPPER is not set"):
        result(made(hash={"paths": ["properties.email"], "key": "${PEPPER}"}), **environment)


def test_sources_and_destinations_set_the_scope() -> None:
    dropped = made(drop=True, sources=["web"], destination="ads")
    assert isinstance(for_destination({"one": dropped}, "ads", {})(ORDER, "web"), Withheld)
    assert for_destination({"one": dropped}, "ads", {})(ORDER, "app") == ORDER
    assert for_destination({"one": dropped}, "ads", {})(ORDER, None) == ORDER
    assert for_destination({"one": dropped}, "crm", {})(ORDER, "web") == ORDER
    assert for_destination({"one": made(drop=True)}, "ads", {})(ORDER, "web") == ORDER


@pytest.mark.parametrize("condition", ["properties.email", "properties.email and type = 'track'"])
def test_a_condition_without_an_answer_withholds_the_message_without_its_value(condition: str) -> None:
    found = result(made(new_event_name="Sale", **{"if": condition}))
    assert isinstance(found, Withheld)
    assert found.reason == "fql_invalid"
    assert "Example" not in found.detail


def test_an_invalid_condition_that_was_never_loaded_withholds_the_message() -> None:
    broken = made(new_event_name="Sale").model_copy(update={"if_": 'event = oops"'})
    found = result(broken)
    assert isinstance(found, Withheld)
    assert (found.reason, found.detail.split(":")[0]) == ("fql_invalid", "transformation one")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "secret@x.y"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries({"type": st.just("track")}, optional=dict.fromkeys(("properties", "traits", "context", "event"), JSON))
)
def test_no_message_breaks_a_transformation_and_none_is_changed_in_place(message: dict[str, Any]) -> None:
    result(made("a", rename={"properties.a": "properties.b.c", "properties.c": "properties.a"}), message=message)
    result(made("a", set=[{"paths": ["properties.a.b", "context.a"], "value": 1}]), message=message)
    result(made("a", allow=["properties.a.b", "properties.c"]), message=message)
    found = result(made("a", hash={"paths": ["properties.a.b"]}), message=message)
    below = found.get("properties")
    reached = below.get("a") if isinstance(below, dict) else None
    reached = reached.get("b") if isinstance(reached, dict) else reached
    assert reached is None or len(reached) == 64


# -- what a space folder may say -----------------------------------------------------------------------------------------


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A copy of the smallest space with a source and an empty folder of transformations."""
    directory = Path(shutil.copytree(MINI, tmp_path / "mini"))
    config = directory / "space.yaml"
    config.write_text(config.read_text() + "sources:\n  web: {}\n  app: {}\n")
    (directory / "transformations").mkdir()
    return directory


def write(space: Path, key: str, text: str) -> None:
    (space / "transformations" / f"{key}.yaml").write_text(f"key: {key}\nname: {key}\n{text}\n")


def problems(space: Path) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        load_space(space)
    assert all(problem.remedy for problem in caught.value.problems)
    return [f"{problem.file}:{problem.line} {problem.message} ({problem.remedy})" for problem in caught.value.problems]


def test_transformations_are_read_by_the_name_of_their_file(space: Path) -> None:
    write(
        space,
        "hash_email",
        "sources: [web]\ndestination: crm\nif: type = 'identify'\nhash: {key: '${PEPPER}', encoding: base64, paths: [traits.email]}",
    )
    write(space, "no_tests", "if: properties.test\ndrop: true")
    loaded = load_space(space)
    assert list(loaded.transformations) == ["hash_email", "no_tests"]
    assert loaded.transformations["hash_email"].hash.variable == "PEPPER"  # type: ignore[union-attr]
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('if: event = oops"\ndrop: true', 3, "a text is not closed (character 13)"),
        ("if: true\ndrop: true", 3, "'if' must be text"),
        ("drop: true", 1, "'if' is missing"),
        ("if: type = 'track'", 1, "does nothing"),
        ("if: type = 'track'\ndrop: true\nnew_event_name: A", 1, "'drop' goes alone"),
        ("if: type = 'page'\nnew_event_name: A", 1, "is for track events"),
        ("if: type = 'track'\nrename: {properties.a.b.c.d: properties.e}", 4, "more than 4 levels"),
        ("if: type = 'track'\nrename: {properties.a: properties.b.c.d.e}", 4, "more than 4 levels"),
        ("if: type = 'track'\nrename: {properties.a: traits.a}", 1, "stays below its root"),
        ("if: type = 'track'\nrename: {properties.a: properties.a.b}", 1, "renamed to itself"),
        ("if: type = 'track'\nrename: {properties.a: properties.c, properties.b: properties.c}", 1, "two fields are renamed"),
        (
            "if: type = 'track'\nhash:\n  paths:\n    - properties.a\n    - userId",
            7,
            "only fields below properties, traits, context",
        ),
        ("if: type = 'track'\nhash: {paths: [properties]}", 4, "only fields below"),
        ("if: type = 'track'\nhash: {paths: [properties.products.0.email]}", 4, "elements of lists"),
        ("if: type = 'track'\nhash: {paths: ['properties.products[0]']}", 4, "belongs to nothing"),
        ("if: type = 'track'\nhash: {paths: ['lowercase(event)']}", 4, "no path"),
        ("if: type = 'track'\nhash: {paths: [context.consent.categoryPreferences]}", 4, "consent of a message cannot be changed"),
        ("if: type = 'track'\nhash: {key: hunter2, paths: [properties.a]}", 4, "comes from the environment only"),
        ("if: type = 'track'\nhash: {key: '${A:-hunter2}', paths: [properties.a]}", 4, "comes from the environment only"),
        (
            "if: type = 'track'\nset:\n  - {value: 1, paths: [" + ", ".join(f"properties.p{n}" for n in range(11)) + "]}",
            5,
            "'paths'",
        ),
        ("if: type = 'track'\nset:\n" + "\n".join(f"  - {{paths: [properties.p{n}], value: 1}}" for n in range(11)), 4, "'set'"),
        (
            "if: type = 'track'\nfql_defined: {fql: length(, property: properties.a}",
            4,
            "ends where a value should be (character 8)",
        ),
        (
            "if: type = 'track'\nfql_defined: {fql: type, property: properties.a}\nrename: {traits.a: traits.b}",
            1,
            "'fql_defined' does not go",
        ),
        ("if: type = 'track'\nallow: [context.page]", 1, "keeps fields of properties and traits"),
        ("if: type = 'track'\nnew_event_name: '${NAME}'", 4, "allowed for secrets and paths only"),
        ("if: type = 'track'\nsources: [web, wob]\ndrop: true", 4, "there is no source 'wob'"),
        ("if: type = 'track'\ndestination: crn\ndrop: true", 4, "there is no destination 'crn'"),
    ],
)
def test_what_breaks_a_rule_is_an_error_with_its_place(space: Path, text: str, line: int, message: str) -> None:
    write(space, "broken", text)
    found = problems(space)
    assert len(found) == 1, found
    assert found[0].startswith(f"transformations/broken.yaml:{line} ")
    assert message in found[0]
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("if: event = 'A'", "if: event in ['A', 'B']", True),
        ("if: type = 'track' and event = 'A'", "if: event = 'A' and type = 'track' and properties.x = 1", True),
        ("if: type = 'track'\nsources: [web]", "if: type = 'track'", True),
        ("if: properties.x = 1", "if: properties.y = 1", True),
        ("if: type = 'track'\nsources: [web]", "if: type = 'track'\nsources: [app]", False),
        ("if: type = 'track'\ndestination: crm", "if: type = 'track'", False),
        ("if: type = 'track'", "if: type = 'track' and event = 'A'", False),
        ("if: event = 'A'", "if: event = 'B'", False),
        ("if: event = 'A'\nenabled: false", "if: event = 'A'", False),
    ],
)
def test_there_is_one_transformation_per_source_type_event_and_destination(
    space: Path, first: str, second: str, clash: bool
) -> None:
    write(space, "a", f"{first}\ndrop: true")
    write(space, "b", f"{second}\ndrop: true")
    if clash:
        assert problems(space) == [
            "transformations/b.yaml:3 transformation 'a' already has these events of this source for this destination "
            "(put both into one, or narrow 'if')"
        ]
    else:
        assert list(load_space(space).transformations) == ["a", "b"]


def test_an_event_filter_that_is_no_fql_is_an_error_with_its_place(space: Path) -> None:
    config = space / "space.yaml"
    lines = config.read_text().count("\n")
    config.write_text(
        config.read_text() + "event_filters:\n  - {name: a, drop_if: type = 'page'}\n  - name: a\n    drop_if: type = 'x' or\n"
    )
    found = problems(space)
    assert f"space.yaml:{lines + 3} name 'a' is used twice, first on line {lines + 2} (keep one, or change it)" in found
    assert any(text.startswith(f"space.yaml:{lines + 4} 'drop_if': the text ends where a value should be") for text in found)
