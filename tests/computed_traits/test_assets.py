"""What the UI shows of a trait."""

from __future__ import annotations

from typing import Any

import pytest

from cdp_assets.computed_traits.assets import partition_metadata, specs
from cdp_assets.computed_traits.build import TraitResult
from tests.people import AS_OF, space

COUNTER = {"key": "logins", "kind": "event_counter", "event": "Login"}
SQL = {"key": "total", "kind": "sql", "identifier": "group_id", "query": "SELECT 1", "members": True}


@pytest.mark.parametrize(
    ("trait", "result", "expected"),
    [
        (COUNTER, TraitResult(rows=7, changed=3, nulled=1), {"profiles with a value": 7}),
        ({**COUNTER, "level": "account"}, TraitResult(rows=7, changed=3, nulled=1, accounts=7), {"accounts with a value": 7}),
        (
            SQL,
            TraitResult(rows=7, changed=3, nulled=1, accounts=2, unknown=4, oversized=5),
            {
                "profiles with a value": 7,
                "accounts with a value": 2,
                "rows of unknown identifiers": 4,
                "rows beyond 16 KB, left out": 5,
            },
        ),
    ],
)
def test_a_partition_says_who_has_a_value_and_what_changed(
    trait: dict[str, Any], result: TraitResult, expected: dict[str, Any]
) -> None:
    made = space(traits=[trait])
    assert partition_metadata(made.traits[trait["key"]], result, AS_OF) == {
        "dagster/partition_row_count": 7,
        "changed since the partition before": 3,
        "of these without a value now": 1,
        "cdp/as_of": "2026-01-01T00:00:00Z",
        **expected,
    }


def test_a_trait_of_accounts_depends_on_memberships_and_shows_their_table() -> None:
    plain, account = specs(space(traits=[COUNTER, {**COUNTER, "key": "all_logins", "level": "account"}]))
    names = [{dep.asset_key.path[-1] for dep in spec.deps} for spec in (plain, account)]
    assert names == [{"messages", "event_profiles"}, {"messages", "event_profiles", "group_memberships"}]
    assert [spec.metadata["dagster/table_name"] for spec in (plain, account)] == [
        "computed_traits.trait_values",
        "computed_traits.account_trait_values",
    ]
