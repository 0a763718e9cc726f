"""Trait files that say what cannot be: each problem with its line, cause and remedy; and one file that is several traits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cdp_assets.space.load import load_space
from cdp_assets.space.revisions import explain_revision_change, trait_revision, trait_slice
from cdp_assets.space.space import SpaceError

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the smallest space, to be edited."""
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


def problems(directory: Path, text: str, key: str = "made") -> list[str]:
    (directory / "traits" / f"{key}.yaml").write_text(f"key: {key}\nname: Made\n{text}\n")
    try:
        return [str(problem) for problem in load_space(directory).warnings]
    except SpaceError as error:
        return [str(problem).removeprefix(f"traits/{key}.yaml:") for problem in error.problems]


COUNTER = "kind: event_counter\nevent: Login\n"
LAST = "kind: last\nevent: Login\nproperty: page\n"
SQL = "kind: sql\nidentifier: user_id\nquery: SELECT user_id, 1 AS made FROM bank.accounts\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: event_counter", "3: kind event_counter needs an 'event' (name the event that it looks at)"),
        (f"{COUNTER}property: page", "5: kind event_counter takes no 'property' (remove it, or filter by it in 'where')"),
        ("kind: last\nevent: Login", "3: kind last needs a 'property' (name the property whose values it looks at)"),
        (
            "kind: aggregation\nevent: Login\nproperty: n",
            "3: 'function' goes with kind aggregation, and is needed there (write function: sum, avg, min or max)",
        ),
        (
            f"{LAST}function: sum",
            "6: 'function' goes with kind aggregation, and is needed there (write function: sum, avg, min or max)",
        ),
        (f"{LAST}min_frequency: 3", "6: 'min_frequency' goes with kind most_frequent (remove it)"),
        (f"{COUNTER}type: string", "5: this trait of kind event_counter cannot be a string (write type: number, or leave it out)"),
        (
            "kind: aggregation\nevent: Login\nproperty: n\nfunction: sum\ntype: string",
            "7: this trait of kind aggregation cannot be a string (write type: number, or leave it out)",
        ),
        (
            f"{LAST}type: list",
            "6: this trait of kind last cannot be a list (write type: string or number or boolean or timestamp, or leave it out)",
        ),
        (
            f"{COUNTER}within: {{last: 3}}\nsession: {{gap: 30}}",
            "6: 'within' does not go together with 'session' (keep one of the two windows)",
        ),
        (
            f"{COUNTER}session: {{gap: 29}}",
            "5: 'session': a session's gap is at least 30 minutes and at most 90 days (change 'gap' or 'unit')",
        ),
        (
            f"{COUNTER}session: {{gap: 91, unit: days}}",
            "5: 'session': a session's gap is at least 30 minutes and at most 90 days (change 'gap' or 'unit')",
        ),
        (f"{COUNTER}members: true", "5: 'members' goes with level account (add level: account, or remove it)"),
        (
            "kind: last\nuser_trait: plan",
            "4: 'user_trait' goes with kind most_frequent and level account (name an event and a property instead)",
        ),
        (
            "kind: most_frequent\nlevel: account\nuser_trait: plan\nevent: Login",
            "6: 'event' does not go together with 'user_trait' (keep one of the two)",
        ),
        (
            f"{COUNTER}where:\n  all:\n    - {{property: n, operator: exists}}\n    - {{property: at, operator: before_date, value: soon}}",
            "8: item 2 of 'all': the value of before_date is not a date (write YYYY-MM-DD or an ISO-8601 instant)",
        ),
        (
            f"{COUNTER}where:\n  any:\n    - {{context: page.url, operator: one_of, value: [a, 1]}}",
            "7: item 1 of 'any': the values of one_of have different types (number, text) (write one type)",
        ),
        (f"{COUNTER}query: SELECT 1", "5: kind event_counter takes no 'query' (remove it, or write kind: sql)"),
        ("kind: sql\nidentifier: user_id", "3: kind sql needs 'query' (add it)"),
        (f"{SQL}event: Login", "6: kind sql takes no 'event' (remove it; the query says which rows count)"),
        (
            SQL.replace("user_id\n", "phone\n", 1),
            "4: 'identifier' has an unknown value (write one of 'user_id', 'email', 'anonymous_id' or 'group_id')",
        ),
        (
            f"{SQL}type: number\ncolumns: {{made: number}}",
            "6: 'type' does not go together with 'columns' (give each column its type in 'columns')",
        ),
        (
            f"{SQL}columns: {{made: number, other: string}}",
            "6: the query has no column other, which is among 'columns' (select it; the columns are made, user_id)",
        ),
        (f"{SQL}columns: {{logins: number}}".replace("AS made", "AS logins"), "6: there is another trait 'logins' (name the column otherwise, with AS)"),
        (
            SQL.replace("1 AS made", "anonymous_id, 1 AS made"),
            "5: the query returns both user_id and anonymous_id (return one of them)",
        ),
        (
            SQL.replace("1 AS made", ", ".join(["1 AS made", *(f"{i} AS c{i}" for i in range(24))])),
            "5: the query returns 26 columns; a SQL trait has at most 25 (select fewer, or write two traits)",
        ),
        (SQL.replace("1 AS made", "1 AS made, 2 AS made"), "5: the query returns column made 2 times (name each column once, with AS)"),
        (
            SQL.replace("FROM bank", "FROM secret"),
            "5: schema secret is not declared; allowed: bank, computed_traits, events, linked_audiences, profiles, pulled_sources, unified_profiles "
            "(add the schema to warehouse.schemas in space.yaml, or read another table)",
        ),
        (
            SQL.replace("accounts", "accounts; SELECT 2"),
            "5: expected one SELECT, found 2 statements (correct the query; it is one SELECT over the space's schemas)",
        ),
    ],
)  # fmt: skip
def test_a_definition_that_cannot_be_is_refused(copied: Path, text: str, expected: str) -> None:
    assert problems(copied, text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        f"{COUNTER}session: {{gap: 90, unit: days}}\nlevel: account\nmembers: true",
        f"{LAST}type: boolean\nwithin: {{last: 7, unit: hours}}",
        "kind: aggregation\nevent: Login\nproperty: n\nfunction: max\ntype: string",
        "kind: most_frequent\nlevel: account\nuser_trait: plan\nmin_frequency: 3",
        SQL.replace("user_id", "group_id") + "members: true",
    ],
)
def test_a_definition_that_can_be_loads(copied: Path, text: str) -> None:
    assert problems(copied, text) == []


def test_a_query_with_columns_is_a_trait_for_each(copied: Path) -> None:
    text = SQL.replace("1 AS made", "1 AS spent, 'gold' AS tier") + "columns: {tier: string, spent: number}"
    assert problems(copied, text) == []
    space = load_space(copied)
    assert list(space.traits) == ["balance", "logins", "spent", "tier"]
    assert [(t.value_type, t.query == space.traits["tier"].query) for t in (space.traits["spent"], space.traits["tier"])] == [
        ("number", True),
        ("string", True),
    ]
    before = trait_slice(space, "tier"), trait_revision(space, "spent")
    assert problems(copied, text.replace("'gold'", "'silver'").replace("tier: string", "tier: boolean")) == []
    again = load_space(copied)
    assert explain_revision_change(before[0], trait_slice(again, "tier")) == ["trait.query changed", "trait.type changed"]
    assert trait_revision(again, "spent") != before[1], "both are columns of the query that changed"


def test_a_space_has_at_most_25_sql_traits(copied: Path) -> None:
    for number in range(24):
        key = f"n{number:02}"
        (copied / "traits" / f"{key}.yaml").write_text(f"key: {key}\nname: Made\n{SQL.replace('AS made', f'AS {key}')}")
    assert problems(copied, SQL.replace("AS made", "AS n24"), "n24") == [
        "3: this is SQL trait number 26; a space has at most 25 (put several columns into one query, under 'columns')"
    ]


def test_audiences_ask_for_traits_of_accounts_only_where_members_have_them(copied: Path) -> None:
    text = (copied / "traits" / "logins.yaml").read_text()
    (copied / "traits" / "logins.yaml").write_text(text + "level: account\n")
    with pytest.raises(SpaceError) as caught:
        load_space(copied)
    assert {(p.file, p.message, p.remedy) for p in caught.value.problems} == {
        (
            "audiences/active.yaml",
            "trait 'logins' is of accounts, and profiles do not have it",
            "write members: true in the trait",
        )
    }
    (copied / "traits" / "logins.yaml").write_text(text + "level: account\nmembers: true\n")
    assert load_space(copied).traits["logins"].of_profiles


def test_options_that_are_not_used_change_no_revision(copied: Path) -> None:
    plain = trait_revision(load_space(copied), "logins")
    text = (copied / "traits" / "logins.yaml").read_text()
    (copied / "traits" / "logins.yaml").write_text(text + "level: profile\n")
    assert trait_revision(load_space(copied), "logins") == plain
    (copied / "traits" / "logins.yaml").write_text(text + "level: account\nmembers: true\n")
    assert trait_revision(load_space(copied), "logins") != plain
