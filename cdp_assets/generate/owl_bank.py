"""The data model of ``owl_bank``: customers by e-mail address, accounts, credit cards, card transactions.

Amounts are whole quarters of a euro, so that sums are exact in any order and equal on every engine.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from cdp_assets.generate import names
from cdp_assets.generate.behaviour import CONFLICT, CONSENT, NEW_EMAIL, NEW_NAME, Action
from cdp_assets.generate.model import Change, DataModel, Plan, pick
from cdp_assets.generate.people import CUSTOMER, DAY, SUBSCRIBER, Person, device, instant
from cdp_assets.generate.tables import Row
from resources.warehouse import TableRef, TableSpec

ACCOUNTS = TableSpec(
    TableRef("bank", "accounts"),
    {
        "account_id": "string",
        "customer_email": "string",
        "account_type": "string",
        "status": "string",
        "balance": "float64",
        "opened_on": "date",
    },
    "Bank accounts.",
    subject="customer_email",
    keys=("account_id",),
    personal=("customer_email",),
)
CREDIT_CARDS = TableSpec(
    TableRef("bank", "credit_cards"),
    {
        "card_id": "string",
        "account_id": "string",
        "product": "string",
        "credit_limit": "float64",
        "balance": "float64",
        "overdue_amount": "float64",
        "due_date": "date",
        "status": "string",
    },
    "Credit cards of accounts. overdue_amount is NULL until the first statement.",
    subject="account_id",
    keys=("card_id",),
)
TRANSACTIONS = TableSpec(
    TableRef("bank", "transactions"),
    {
        "transaction_id": "string",
        "card_id": "string",
        "made_at": "timestamp",
        "merchant_category": "string",
        "amount": "float64",
    },
    "Purchases and payments on credit cards.",
    subject="card_id",
    keys=("transaction_id",),
)

CARD_PRODUCTS = ("classic", "gold", "platinum")
CATEGORIES = ("groceries", "travel", "restaurants", "fuel", "electronics", "health", "clothing")
BANK_PRODUCTS = ("mortgage", "gold-card", "savings-plus", "car-loan", "travel-insurance")
PAGES = {"Home": "/", "Pricing": "/pricing", "Cards": "/cards", "Loans": "/loans", "Help": "/help"}
DUE_AHEAD = 120  # days past the end up to which due dates reach


def quarters(rng: random.Random, low: int, high: int) -> float:
    return rng.randrange(low * 4, high * 4) / 4


class OwlBank(DataModel):
    """State: ``accounts`` and ``cards`` by id, ``owners`` account id -> person id."""

    space = "owl_bank"
    tables = {"accounts": ACCOUNTS, "credit_cards": CREDIT_CARDS, "transactions": TRANSACTIONS}
    user_prefix = "owl"

    # -- behaviour ---------------------------------------------------------------------------------------------

    def browse(self, rng: random.Random) -> Action:
        if rng.random() < 0.4:
            return Action("track", "Product Viewed", {"product": rng.choice(BANK_PRODUCTS)})
        name = rng.choice(tuple(PAGES))
        return Action("page", name, {"path": PAGES[name], "title": f"{name} | Owl Bank"})

    def use(self, rng: random.Random, person: Person) -> Action:
        dice = rng.random()
        if dice < 0.35:
            amount, category = quarters(rng, 2, 400), rng.choice(CATEGORIES)
            return Action("track", "Payment Made", {"amount": amount, "currency": "EUR", "category": category})
        if dice < 0.5:
            return Action("track", "Statement Viewed", {"months": rng.randrange(1, 13), "format": rng.choice(("pdf", "screen"))})
        if dice < 0.65:
            return Action("track", "Product Viewed", {"product": rng.choice(BANK_PRODUCTS)})
        if dice < 0.8:
            return Action("screen", rng.choice(("Accounts", "Cards", "Transfer")), {"source": "menu"})
        return self.browse(rng)

    def contact(self, rng: random.Random) -> Action:
        topics = ("billing", "login", "card", "limits", "other")
        return Action("track", "Support Contacted", {"topic": rng.choice(topics), "channel": rng.choice(("phone", "chat"))})

    def traits(self, person: Person) -> dict[str, Any]:
        return {
            "email": person.email,
            "first_name": person.first_name,
            "last_name": person.last_name,
            "phone": person.phone,
            "address": {"country": "NL" if person.phone.startswith("+44") else "US"},
        }

    # -- entities ----------------------------------------------------------------------------------------------

    def populate(self, rng: random.Random, people: list[Person], end: int) -> Change:
        change = Change()
        for person in people:
            banked = person.kind == CUSTOMER and (not person.new or person.signed_up)
            # Some who only left their address bank at a branch: known by it, and without a user id.
            if banked or (person.kind == SUBSCRIBER and rng.random() < 0.5):
                self._open(rng, change, person, end, overdue=0.16)
        for number in range(max(1, len(people) // 10)):  # customers of the branches, whom no event knows
            first, last = names.full_name(rng)
            address = names.email(rng, first, last, 900_000 + number)
            self._account(rng, change, None, address, end, overdue=0.16)
        return change

    def _open(self, rng: random.Random, change: Change, person: Person, end: int, *, overdue: float) -> None:
        for _ in range(rng.choices((1, 2, 3), (55, 35, 10))[0]):
            self._account(rng, change, person.id, person.emails[0], end, overdue=overdue)

    def _account(self, rng: random.Random, change: Change, person: str | None, address: str, end: int, *, overdue: float) -> None:
        today = instant(end).date()
        account: Row = {
            "account_id": f"ACC-{self.number('account'):07d}",
            "customer_email": address,
            "account_type": rng.choices(("checking", "savings"), (65, 35))[0],
            "status": "open" if rng.random() < 0.95 else "dormant",
            "balance": quarters(rng, -500, 20_000),
            "opened_on": str(today - dt.timedelta(days=rng.randrange(30, 4_000))),
        }
        self.rows("accounts")[account["account_id"]] = account
        self.state.setdefault("owners", {})[account["account_id"]] = person
        change.add("accounts", account)
        for _ in range(rng.choices((0, 1, 2), (40, 50, 10))[0]):
            self._card(rng, change, account["account_id"], end, overdue)

    def _card(self, rng: random.Random, change: Change, account_id: str, end: int, overdue: float) -> None:
        today = instant(end).date()
        late = rng.random() < overdue
        card: Row = {
            "card_id": f"CRD-{self.number('card'):07d}",
            "account_id": account_id,
            "product": rng.choices(CARD_PRODUCTS, (60, 30, 10))[0],
            "credit_limit": float(rng.randrange(1, 20) * 500),
            "balance": quarters(rng, 0, 3_000),
            "overdue_amount": quarters(rng, 20, 900) if late else None if rng.random() < 0.1 else 0.0,
            "due_date": str(today - dt.timedelta(days=rng.randrange(1, 60)) if late else _due(rng, today)),
            "status": "active" if rng.random() < 0.96 else "blocked",
        }
        self.rows("credit_cards")[card["card_id"]] = card
        change.add("credit_cards", card)
        for _ in range(rng.randrange(6)):
            self._transaction(rng, change, card["card_id"], end - 60 * DAY, end)

    def _transaction(self, rng: random.Random, change: Change, card_id: str, start: int, end: int) -> None:
        change.add(
            "transactions",
            {
                "transaction_id": f"TRX-{self.number('transaction'):09d}",
                "card_id": card_id,
                "made_at": instant(rng.randrange(start, end)).replace(tzinfo=None).isoformat(),
                "merchant_category": rng.choice(CATEGORIES),
                "amount": quarters(rng, 1, 300),
            },
        )

    def entities_of(self, people: list[Person]) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        owners = self.state.get("owners", {})
        for account_id, person in owners.items():
            if person:
                found.setdefault(person, {"accounts": [], "credit_cards": []})["accounts"].append(account_id)
        for card in self.rows("credit_cards").values():
            person = owners[card["account_id"]]
            if person:
                found[person]["credit_cards"].append(card["card_id"])
        return found

    # -- change ------------------------------------------------------------------------------------------------

    def plan(self, rng: random.Random, people: list[Person], window: tuple[int, int]) -> Plan:
        """A window's turns of fate: cards become overdue or are paid, members change their mind, their name, their address.

        Nobody has two of them at once: what each brings about stays countable.
        """
        days = (window[1] - window[0]) / DAY
        known = {p.id: p for p in people if p.kind == CUSTOMER and p.signed_up and p.consent is not None}
        owners = self.state.get("owners", {})
        due: dict[str, list[Row]] = {}
        clean: list[Row] = []
        for card in self.rows("credit_cards").values():
            account = self.rows("accounts")[card["account_id"]]
            if owners[card["account_id"]] not in known or account["account_type"] != "checking":
                continue
            if (card["overdue_amount"] or 0) > 0:
                due.setdefault(owners[card["account_id"]], []).append(card)
            else:
                clean.append(card)
        plan = Plan()
        members = sorted(due)
        rng.shuffle(members)
        paid = members[: pick(rng, max(2, len(members) * 0.06), days)]
        rest = [known[p] for p in members[len(paid) :]]
        self._change_minds(rng, plan, rest, days)
        for person in paid:
            for card in due[person]:
                plan.change.replace("credit_cards", card["card_id"], self._paid(rng, card, window[1]))
        busy = set(plan.visits) | set(paid)
        free = [card for card in clean if owners[card["account_id"]] not in busy]
        for card in rng.sample(free, min(len(free), pick(rng, max(3, len(clean) * 0.012), days))):
            plan.change.replace("credit_cards", card["card_id"], self._overdue(rng, card, window[1]))
        cards = list(self.rows("credit_cards"))
        for _ in range(pick(rng, len(cards) * 0.2, days) if cards else 0):
            self._transaction(rng, plan.change, rng.choice(cards), window[0], window[1])
        return plan

    def _change_minds(self, rng: random.Random, plan: Plan, members: list[Person], days: float) -> None:
        """Withdrawals, grants, new names and new addresses among members, each of different people."""
        left = list(members)

        def take(wanted: int, fits) -> list[Person]:
            chosen = [p for p in left if fits(p)][:wanted]
            for person in chosen:
                left.remove(person)
            return chosen

        few = max(1.0, len(members) * 0.04)
        for person in take(pick(rng, few, days), lambda p: p.consent["Advertising"] and p.consent["Functional"]):
            plan.visit(person, CONSENT, {**(person.consent or {}), "Advertising": False})
        for person in take(pick(rng, 1, days), lambda p: p.consent["Functional"]):
            plan.visit(person, CONSENT, dict.fromkeys(("Functional", "Analytics", "Advertising"), False))
        for person in take(pick(rng, few, days), lambda p: not p.consent["Advertising"]):
            plan.visit(person, CONSENT, {**(person.consent or {}), "Advertising": True})
        for person in take(pick(rng, 1, days), lambda p: p.consent["Functional"]):
            plan.visit(person, NEW_NAME)
        for person in take(pick(rng, 1, days), lambda p: p.consent["Functional"] and not p.consent["Advertising"]):
            plan.visit(person, NEW_EMAIL)

    def last_day(self, rng: random.Random, people: list[Person]) -> dict[str, str]:
        """Before the first end: some answer the banner differently on another device, some move to a new address."""
        ready = [p for p in people if p.kind == CUSTOMER and p.signed_up and p.consent is not None]
        ready = [p for p in ready if p.devices[0].private and len(p.devices) < 4 and p.devices[0].anonymous_id in p.signed_in]
        rng.shuffle(ready)
        count = max(1, len(people) // 150)
        for person in ready[:count]:
            person.devices.append(device(rng))
        moved = ready[count : 2 * count]
        return {**{p.id: CONFLICT for p in ready[:count]}, **{p.id: NEW_EMAIL for p in moved}}

    def joined(self, rng: random.Random, person: Person, window: tuple[int, int]) -> Change:
        change = Change()
        self._open(rng, change, person, window[1], overdue=0.0)
        return change

    def _paid(self, rng: random.Random, card: Row, end: int) -> Row:
        return {**card, "overdue_amount": 0.0, "due_date": str(_due(rng, instant(end).date()))}

    def _overdue(self, rng: random.Random, card: Row, end: int) -> Row:
        since = instant(end).date() - dt.timedelta(days=1)
        return {**card, "overdue_amount": quarters(rng, 20, 400), "due_date": str(since)}


def _due(rng: random.Random, today: dt.date) -> dt.date:
    return today + dt.timedelta(days=rng.randrange(1, DUE_AHEAD + 1))
