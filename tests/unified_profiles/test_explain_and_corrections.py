"""Why a profile is one, and what a person's word against it does: chains, refusals, separations and removals."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from cdp_assets.space.models.settings import BlockedValue, IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.corrections import CorrectionError, listed, remove_identifier, unmerge, withdraw
from cdp_assets.unified_profiles.explain import Explanation, UnknownProfileError, why_merged
from cdp_assets.unified_profiles.identifiers import Identifier
from tests.unified_profiles.conftest import AS_OF, People

EMAIL = "ann@example.com"


def two_that_merge(people: People) -> tuple[str | None, str | None]:
    """A visitor (m000) and a customer (m001) whom m002 joins; their segment ids."""
    people.say(anonymous="phone")
    people.say("u1", traits={"email": EMAIL})
    people.say("u1", "phone")
    people.build()
    return people.profile_of("m000"), people.profile_of("m001")


def explained(people: People, profile: str) -> Explanation:
    return why_merged(people.warehouse, people.graph, profile)


def owners(people: People) -> dict[tuple[str, str], str]:
    rows = people.rows("user_identifiers", "type", "value", "canonical_segment_id")
    return {(kind, value): owner for kind, value, owner in rows}


def test_the_chain_names_who_was_created_what_came_and_what_joined_them(any_people: People) -> None:
    visitor, customer = two_that_merge(any_people)
    found = explained(any_people, f"email:{EMAIL}")
    assert found.canonical_segment_id == visitor
    assert found.parts == (visitor, customer)
    assert [(link.kind, link.segment_id, link.loser, link.place.message_id) for link in found.chain] == [
        ("created", visitor, None, "m000"),
        ("created", customer, None, "m001"),
        ("merged", visitor, customer, "m002"),
    ]
    assert found.chain[-1].identifiers == (
        (Identifier("user_id", "u1"), customer),
        (Identifier("anonymous_id", "phone"), visitor),
    )
    assert set(found.identifiers) == {
        Identifier("user_id", "u1"),
        Identifier("email", EMAIL),
        Identifier("anonymous_id", "phone"),
    }
    assert explained(any_people, str(customer)) == found


def test_what_was_refused_is_named_with_its_rule(people: People) -> None:
    people.identity = IdentitySettings(identifiers=(IdentifierRule(type="user_id", limit=1),))
    people.say("u1", traits={"email": EMAIL})
    people.say("u2", traits={"email": EMAIL})
    people.build()
    refused = explained(people, "user_id:u2").refused
    assert [(row.place.message_id, row.identifier_type, row.reason) for row in refused] == [
        ("m001", "email", "identifier_value_limit_exceeded")
    ]


def test_values_are_masked_unless_asked(people: People) -> None:
    two_that_merge(people)
    found = explained(people, "user_id:u1")
    masked, plain = json.dumps(found.to_json()), json.dumps(found.to_json(unmask=True))
    assert EMAIL not in masked
    assert "xxx@xxxxxxx.xxx" in masked
    assert EMAIL in plain


def test_nobody_is_explained_by_an_unknown_id(people: People) -> None:
    two_that_merge(people)
    for unknown in ("use_nobody", "email:other@example.com"):
        with pytest.raises(UnknownProfileError) as error:
            explained(people, unknown)
        assert unknown not in str(error.value)


def test_unmerged_profiles_stay_apart_at_this_build_at_the_next_and_in_a_rebuild(people: People) -> None:
    visitor, customer = two_that_merge(people)
    made = unmerge(people.warehouse, people.graph, str(customer), reason="a shared phone", loaded_at=AS_OF)
    assert {side for side, _ in made.identifiers} == {"a", "b"}
    people.build()
    apart = owners(people)
    assert apart["anonymous_id", "phone"] == visitor
    assert apart["user_id", "u1"] == apart["email", EMAIL] == customer
    assert [row[0] for row in people.rows("identity_violations", "reason")] == ["separated"]
    people.say("u1", "phone")
    people.build()
    assert owners(people) == apart
    people.identity = IdentitySettings(custom={"card": "card"})  # other settings: everything is rebuilt
    people.build()
    assert owners(people) == apart


def test_an_unmerge_taken_back_merges_again(people: People) -> None:
    _, customer = two_that_merge(people)
    before = people.all_tables()
    made = unmerge(people.warehouse, people.graph, str(customer), reason="", loaded_at=AS_OF)
    assert unmerge(people.warehouse, people.graph, str(customer), reason="", loaded_at=AS_OF).known
    people.build()
    assert len(set(owners(people).values())) == 2
    assert [row["identifiers"] for row in listed(people.warehouse)] == [3]
    withdraw(people.warehouse, made.correction_id)
    people.build()
    after = people.all_tables()
    outside = {"builds", "id_aliases", "corrected_builds"}
    assert {n: r for n, r in after.items() if n not in outside} == {n: r for n, r in before.items() if n not in outside}
    with pytest.raises(CorrectionError):
        withdraw(people.warehouse, made.correction_id)


def test_only_a_profile_that_was_merged_away_can_leave(people: People) -> None:
    visitor, _ = two_that_merge(people)
    with pytest.raises(CorrectionError, match="was not merged"):
        unmerge(people.warehouse, people.graph, str(visitor), reason="", loaded_at=AS_OF)
    with pytest.raises(UnknownProfileError):
        unmerge(people.warehouse, people.graph, "use_nobody", reason="", loaded_at=AS_OF)


def test_a_removed_identifier_leaves_and_may_come_again(people: People) -> None:
    people.say("u1", traits={"email": EMAIL})
    people.build()
    removed_at = dt.datetime(2026, 1, 1, 0, 5, tzinfo=dt.UTC)
    remove_identifier(people.warehouse, people.graph, Identifier("email", EMAIL), reason="", effective_at=removed_at)
    people.build()
    assert set(owners(people)) == {("user_id", "u1")}
    operations = people.rows("external_id_mapping_updates", "external_id_type", "__operation")
    assert operations == [("email", "CREATED"), ("email", "REMOVED"), ("user_id", "CREATED")]
    people.say("u2", traits={"email": EMAIL}, minute=10)
    people.build()
    found = owners(people)
    assert found["email", EMAIL] == found["user_id", "u2"] != found["user_id", "u1"]


def test_the_last_user_id_and_account_ids_are_not_removed(people: People) -> None:
    people.say("u1", traits={"email": EMAIL})
    people.build()
    for identifier, message in ((Identifier("user_id", "u1"), "last user_id"), (Identifier("group_id", "g"), "account")):
        with pytest.raises(CorrectionError, match=message):
            remove_identifier(people.warehouse, people.graph, identifier, reason="", effective_at=AS_OF)


def test_a_value_blocked_after_the_fact_heals_the_profiles_that_it_joined(any_people: People) -> None:
    any_people.say("u1", traits={"email": "noreply@example.com"})
    any_people.say("u2", "pad", traits={"email": "two@example.com"})
    any_people.identity = IdentitySettings(identifiers=(IdentifierRule(type="user_id", limit=5),))
    any_people.say("u2", traits={"email": "noreply@example.com"})
    any_people.build()
    assert len(set(owners(any_people).values())) == 1
    any_people.identity = any_people.identity.model_copy(
        update={"blocked": (*any_people.identity.blocked, BlockedValue(exact="noreply@example.com"))}
    )
    any_people.build()
    healed = owners(any_people)
    assert ("email", "noreply@example.com") not in healed
    assert healed["user_id", "u1"] != healed["user_id", "u2"] == healed["email", "two@example.com"]
