"""What each activation must do, computed from the truth file and the entity tables alone.

Shares no code with the product: json, duckdb and plain Python, and the rules of docs/design.md ("Activation state", "Consent").
A *snapshot* is the desired state at an instant; a *ledger* is what the destinations hold after a sync; :func:`sync` goes from one to
the other and counts. Entity tables are read as they are now, so take a snapshot before more data is generated.

As a script, one sync: ``expected_operations.py --home .cdp --space owl_bank --as-of T [--ledger before.json] --out after.json``
prints the operations and writes the ledger that follows.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

OK, CONSENT, NO_IDENTIFIER = "ok", "consent", "no_identifier"


@dataclass(frozen=True)
class Rules:
    """An activation, in the words of its configuration file."""

    audience: str
    when: str  # enters or enters_or_exits
    unit: str  # profile or entity
    categories: tuple[str, ...]
    flag: str
    key_field: str
    object: str
    changes: bool = False


RULES = {
    "owl_bank": {
        "overdue_contacts": Rules(
            "overdue_checking",
            "enters_or_exits",
            "profile",
            ("Functional",),
            "Overdue_Checking__c",
            "Cdp_Id__c",
            "Contact",
            changes=True,
        ),
        "overdue_card_alerts": Rules(
            "overdue_checking", "enters", "entity", ("Advertising",), "Card_Overdue_Alert__c", "email", "lead"
        ),
    },
    "mural": {
        "user_profile_segmentation": Rules(
            "renewal_at_risk", "enters_or_exits", "profile", ("Advertising",), "Renewal_At_Risk__c", "email", "lead"
        ),
    },
}


@dataclass
class Unit:
    """A member, or a (member, entity) pair: destination key, whether its message may go, and the fields that can be foretold."""

    key: str | None
    verdict: str
    fields: dict[str, Any]


@dataclass
class Snapshot:
    """The desired state. ``members`` are true persons; ``entities`` the distinct rows that made them match, over all nodes."""

    members: dict[str, set[str]]
    entities: dict[str, int]
    units: dict[str, dict[str, Unit]]


@dataclass
class Held:
    """A unit at the destination: ``present`` until it exits or is retracted."""

    key: str
    fields: dict[str, Any]
    present: bool = True


Ledger = dict[str, dict[str, Held]]


@dataclass
class Expected:
    """The accounting of one sync of one activation; the sum of the outcomes is ``considered``."""

    operations: dict[str, int] = field(default_factory=lambda: {"enter": 0, "change": 0, "exit": 0, "retract": 0})
    delivered: int = 0
    unchanged: int = 0
    withheld: dict[str, int] = field(default_factory=dict)

    @property
    def considered(self) -> int:
        return self.delivered + self.unchanged + sum(self.withheld.values())


# -- what is known of people at an instant -------------------------------------------------------------------------------


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


class People:
    """The truth as of an instant: only what was received before it."""

    def __init__(self, truth: dict[str, Any], as_of: dt.datetime) -> None:
        self.as_of = as_of
        self.persons = truth["persons"]
        self.known: dict[str, dict[str, list[tuple[str, str]]]] = {}  # person -> type -> (known at, value)
        self.person_of: dict[tuple[str, str], str] = {}
        for identifier in truth["identifiers"]:
            if identifier["known_at"] and _instant(identifier["known_at"]) < as_of:
                mine = self.known.setdefault(identifier["person"], {}).setdefault(identifier["type"], [])
                mine.append((identifier["known_at"], identifier["value"]))
                self.person_of[identifier["type"], identifier["value"]] = identifier["person"]

    def last(self, person: str, kind: str) -> str | None:
        """The identifier of a type that was seen last. Nobody in the truth goes back to an earlier one."""
        found = self.known.get(person, {}).get(kind, [])
        return max(found)[1] if found else None

    def latest(self, timeline: list[dict[str, Any]]) -> dict[str, Any]:
        before = [entry for entry in timeline if _instant(entry["at"]) < self.as_of]
        return before[-1] if before else {}

    def consents(self, person: str, categories: tuple[str, ...]) -> bool:
        state = self.latest(self.persons[person]["consent"]).get("state", {})
        return all(state.get(category) == "true" for category in categories)

    def traits(self, person: str) -> dict[str, Any]:
        return self.latest(self.persons[person]["traits"])


def profiles_at(truth: dict[str, Any], as_of: dt.datetime) -> int:
    """Profiles of persons, and of devices that were seen alone and not (yet) linked to anyone."""

    def before(text: str | None) -> bool:
        return text is not None and _instant(text) < as_of

    persons = sum(before(person["known_at"]) for person in truth["persons"].values())
    devices = sum(before(device["alone_at"]) and not before(device["linked_at"]) for device in truth["devices"].values())
    return persons + devices


def merges_at(truth: dict[str, Any], as_of: dt.datetime) -> int:
    return sum(_instant(merge["at"]) < as_of for merge in truth["merges"])


# -- desired states ------------------------------------------------------------------------------------------------------


def _rows(warehouse: Path, query: str) -> list[tuple[Any, ...]]:
    connection = duckdb.connect(str(warehouse), read_only=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _verdict(people: People, person: str, key: str | None, rules: Rules) -> str:
    if not people.consents(person, rules.categories):
        return CONSENT
    return OK if key else NO_IDENTIFIER


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def owl_bank(people: People, warehouse: Path) -> Snapshot:
    """Owns a checking account that has a card with something overdue."""
    found = _rows(
        warehouse,
        """
        SELECT a.customer_email, a.account_id, c.card_id, c.product, c.overdue_amount
        FROM bank.accounts a JOIN bank.credit_cards c ON c.account_id = a.account_id
        WHERE a.account_type = 'checking' AND c.overdue_amount > 0
        ORDER BY a.account_id, c.card_id
        """,
    )
    rules = RULES["owl_bank"]
    contacts: dict[str, Unit] = {}
    alerts: dict[str, Unit] = {}
    entities = set()
    for address, account, card, product, amount in found:
        person = people.person_of.get(("email", address))
        if person is None:
            continue
        entities |= {(person, "accounts", account), (person, "accounts:credit-cards", card)}
        traits = people.traits(person)
        email = people.last(person, "email")
        alert = rules["overdue_card_alerts"]
        fields = {
            "email": email,
            "firstName": traits.get("first_name"),
            alert.flag: True,
            "Overdue_Card_Id__c": card,
            "Overdue_Card_Product__c": product,
            "Overdue_Amount__c": amount,
        }
        alerts[f"{person}|{card}"] = Unit(email, _verdict(people, person, email, alert), _given(fields))
        if person not in contacts:
            contact = rules["overdue_contacts"]
            user_id = people.last(person, "user_id")
            fields = {
                "Cdp_Id__c": user_id,
                "Email": traits.get("email"),
                "FirstName": traits.get("first_name"),
                "LastName": traits.get("last_name"),
                contact.flag: True,
                "Overdue_Account__c": account,
            }
            contacts[person] = Unit(user_id, _verdict(people, person, user_id, contact), _given(fields))
    return Snapshot(
        {"overdue_checking": set(contacts)},
        {"overdue_checking": len(entities)},
        {"overdue_contacts": contacts, "overdue_card_alerts": alerts},
    )


def mural(people: People, warehouse: Path, as_of: dt.datetime) -> Snapshot:
    """Works for an account with an ARR over 50,000 whose term ends within 90 days and whose engagement is at most 40."""
    found = _rows(
        warehouse,
        """
        SELECT r.user_id, r.role_id, r.role, w.workspace_id, a.account_id, a.term_end
        FROM product.workspace_roles r
        JOIN product.workspaces w ON w.workspace_id = r.workspace_id
        JOIN billing.accounts a ON a.account_id = w.account_id
        WHERE a.arr > 50000 AND a.engagement <= 40
        ORDER BY r.role_id
        """,
    )
    rules = RULES["mural"]["user_profile_segmentation"]
    units: dict[str, Unit] = {}
    entities = set()
    for user_id, role_id, role, workspace, account, term_end in found:
        ends = dt.datetime.combine(term_end, dt.time(), dt.UTC)
        person = people.person_of.get(("user_id", user_id))
        if person is None or not as_of <= ends <= as_of + dt.timedelta(days=90):
            continue
        entities |= {(person, "role", role_id), (person, "workspace", workspace), (person, "account", account)}
        if person in units:
            continue
        traits = people.traits(person)
        email = people.last(person, "email")
        fields = {
            "email": email,
            "firstName": traits.get("first_name"),
            "lastName": traits.get("last_name"),
            rules.flag: True,
            "Workspace_Role__c": role,
        }
        units[person] = Unit(email, _verdict(people, person, email, rules), _given(fields))
    return Snapshot({"renewal_at_risk": set(units)}, {"renewal_at_risk": len(entities)}, {"user_profile_segmentation": units})


def snapshot(home: Path, space: str, as_of: dt.datetime) -> Snapshot:
    """The desired state of a space's audience activations at an instant. The DuckDB file must be free."""
    people = People(read_truth(home, space), as_of)
    warehouse = home / space / f"{space}.duckdb"
    return owl_bank(people, warehouse) if space == "owl_bank" else mural(people, warehouse, as_of)


def read_truth(home: Path, space: str) -> dict[str, Any]:
    return json.loads((home / space / "truth.json").read_text())


# -- a sync --------------------------------------------------------------------------------------------------------------


def sync(space: str, ledger: Ledger, desired: Snapshot) -> tuple[dict[str, Expected], Ledger]:
    """Accounting per activation, and the ledger after the sync. A first sync sends everyone (``first_run: send``)."""
    after: Ledger = {}
    accounts: dict[str, Expected] = {}
    for activation, rules in RULES[space].items():
        held = {unit: Held(**asdict(row)) for unit, row in ledger.get(activation, {}).items()}
        accounts[activation] = _sync_one(rules, held, desired.units[activation])
        after[activation] = held
    return accounts, after


def _sync_one(rules: Rules, held: dict[str, Held], desired: dict[str, Unit]) -> Expected:
    found = Expected()
    withheld: Counter[str] = Counter()

    def send(operation: str) -> None:
        found.operations[operation] += 1
        found.delivered += 1

    for name, unit in sorted(desired.items()):
        row = held.get(name)
        present = row is not None and row.present
        if unit.verdict != OK:
            if present and row:
                row.present = False
                row.fields = {**row.fields, rules.flag: False}
                send("retract")
            else:
                withheld[unit.verdict] += 1
        elif not present or row is None:
            held[name] = Held(str(unit.key), unit.fields)
            send("enter")
        elif row.key != unit.key:
            raise ValueError("a unit changed its destination key; the demo data is made not to do that between syncs")
        elif rules.changes and row.fields != unit.fields:
            row.fields = unit.fields
            send("change")
        else:
            found.unchanged += 1
    for name, row in sorted(held.items()):
        if name in desired or not row.present:
            continue
        row.present = False
        if rules.when == "enters_or_exits":
            row.fields = {**row.fields, rules.flag: False}
            send("exit")
        else:
            found.unchanged += 1  # an exit that the trigger does not announce is recorded silently
    found.withheld = dict(sorted(withheld.items()))
    return found


# -- the destinations' records -------------------------------------------------------------------------------------------


def differences(space: str, activation: str, ledger: Ledger, records: list[dict[str, Any]]) -> list[str]:
    """How a destination's records (a twin's ``fields``) differ from the ledger, naming fields and never values.

    Records that share a key (several cards of one lead) must equal one of the units in each field, and carry the flag of any that
    is still true there.
    """
    rules = RULES[space][activation]
    units: dict[str, list[Held]] = {}
    for row in ledger[activation].values():
        units.setdefault(row.key.lower(), []).append(row)
    # Records of other activations on the same object do not carry the flag.
    found = {str(r[rules.key_field]).lower(): r for r in records if r.get(rules.key_field) and r.get(rules.flag) is not None}
    problems = [f"{len(set(units) - set(found))} keys are missing"] if set(units) - set(found) else []
    problems += [f"{len(set(found) - set(units))} keys should not be there"] if set(found) - set(units) else []
    for key in sorted(set(units) & set(found)):
        flags = {bool(row.fields[rules.flag]) for row in units[key]}
        if bool(found[key][rules.flag]) != (True in flags):
            problems.append(f"{rules.flag} is {found[key][rules.flag]}, expected {True in flags}")
        # What a record keeps after its flag went false is the destination's affair.
        current = [row for row in units[key] if row.fields[rules.flag]]
        for name in sorted({name for row in current for name in row.fields} - {rules.flag, rules.key_field}):
            if all(found[key].get(name) != row.fields.get(name) for row in current):
                problems.append(f"{name} differs")
    return problems


def ledger_as_json(ledger: Ledger) -> dict[str, Any]:
    return {activation: {unit: asdict(row) for unit, row in sorted(rows.items())} for activation, rows in ledger.items()}


def ledger_of_json(document: dict[str, Any]) -> Ledger:
    return {activation: {unit: Held(**row) for unit, row in rows.items()} for activation, rows in document.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--space", choices=sorted(RULES), required=True)
    parser.add_argument("--as-of", type=dt.datetime.fromisoformat, required=True, help="an instant with a zone")
    parser.add_argument("--ledger", type=Path, help="the ledger after the sync before; none for the first sync")
    parser.add_argument("--out", type=Path, help="where to write the ledger after this sync")
    given = parser.parse_args()
    before = ledger_of_json(json.loads(given.ledger.read_text())) if given.ledger else {}
    desired = snapshot(given.home, given.space, given.as_of)
    accounts, after = sync(given.space, before, desired)
    if given.out:
        given.out.write_text(json.dumps(ledger_as_json(after), indent=1))
    print(
        json.dumps(
            {
                "audiences": {k: {"members": len(v), "entities": desired.entities[k]} for k, v in desired.members.items()},
                "activations": {k: {"considered": v.considered, **asdict(v)} for k, v in accounts.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
