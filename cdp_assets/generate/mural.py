"""The data model of ``mural``: people with roles in workspaces, workspaces of paying accounts.

Contract values are whole thousands, so that sums are exact. A few terms end exactly on the edges of the next 90 days, so
that a day's passing alone moves people in and out of an audience.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from cdp_assets.generate import names
from cdp_assets.generate.behaviour import CONFLICT, CONSENT, NEW_NAME, Action
from cdp_assets.generate.model import Change, DataModel, Plan, pick
from cdp_assets.generate.people import CUSTOMER, DAY, Person, device, instant
from cdp_assets.generate.tables import Row
from resources.warehouse import TableRef, TableSpec

USERS = TableSpec(
    TableRef("product", "users"),
    {"user_id": "string", "email": "string", "full_name": "string", "signed_up_on": "date", "status": "string"},
    "People of the product, also those who were invited and never came.",
    subject="user_id",
    keys=("user_id",),
    personal=("email", "full_name"),
)
WORKSPACES = TableSpec(
    TableRef("product", "workspaces"),
    {"workspace_id": "string", "account_id": "string", "workspace_name": "string", "board_count": "int64", "created_on": "date"},
    "Workspaces of accounts.",
    subject=None,
    keys=("workspace_id",),
)
WORKSPACE_ROLES = TableSpec(
    TableRef("product", "workspace_roles"),
    {"role_id": "string", "user_id": "string", "workspace_id": "string", "role": "string", "granted_on": "date"},
    "Who may do what in a workspace.",
    subject="user_id",
    keys=("role_id",),
)
ACCOUNTS = TableSpec(
    TableRef("billing", "accounts"),
    {
        "account_id": "string",
        "company_name": "string",
        "plan": "string",
        "arr": "float64",
        "seats_bought": "int64",
        "term_start": "date",
        "term_end": "date",
        "engagement": "int64",
        "csm_name": "string",
        "csm_email": "string",
    },
    "Paying companies, each with the customer success manager who looks after it. engagement is 0 to 100, NULL before the first month.",
    subject=None,
    keys=("account_id",),
)

TEMPLATES = ("retrospective", "brainstorm", "roadmap", "journey-map", "kanban", "icebreaker")
FEATURES = ("voting", "timer", "sticky-notes", "private-mode", "frames", "comments", "export")
SCREENS = {"Home": "/", "Pricing": "/pricing", "Templates": "/templates", "Enterprise": "/enterprise", "Blog": "/blog"}
# Customer success managers of the company itself.
CSMS = ("Isolde Thistlewood", "Kwabena Okonkwo", "Mireille Delacroix", "Tereza Woźniakowska")
ROLES = ("member", "facilitator", "admin", "guest")
FEEDBACK = {
    True: ("Workshops are fun again", "The whole team is on one board", "Templates save us hours"),
    False: ("Boards load slowly", "Hard to find what others made", "Too expensive for what we use"),
}
_ANSWERING = 0.4  # share of people who answer within two weeks
PEOPLE_PER_ACCOUNT = 12
RENEWAL_AHEAD = 120  # days past the end up to which terms end


class Mural(DataModel):
    """State: ``accounts``, ``workspaces`` and ``workspace_roles`` by id; ``account_of`` person id -> account id."""

    space = "mural"
    tables = {"users": USERS, "workspaces": WORKSPACES, "workspace_roles": WORKSPACE_ROLES, "accounts": ACCOUNTS}
    user_prefix = "mur"

    # -- behaviour ---------------------------------------------------------------------------------------------

    def browse(self, rng: random.Random) -> Action:
        if rng.random() < 0.3:
            return Action("track", "Template Previewed", {"template": rng.choice(TEMPLATES)})
        name = rng.choice(tuple(SCREENS))
        return Action("page", name, {"path": SCREENS[name], "title": f"{name} | Mural"})

    def use(self, rng: random.Random, person: Person) -> Action:
        workspaces = self._workspaces_of(person)
        if not workspaces:
            return self.browse(rng)
        workspace = rng.choice(workspaces)
        dice = rng.random()
        if dice < 0.25:
            return Action("track", "Board Created", {"workspace_id": workspace, "template": rng.choice(TEMPLATES)})
        if dice < 0.4:
            audience = rng.choices(("company", "guests"), (75, 25))[0]
            return Action(
                "track", "Board Shared", {"workspace_id": workspace, "audience": audience, "people": rng.randrange(1, 12)}
            )
        if dice < 0.65:
            return Action("track", "Feature Used", {"workspace_id": workspace, "feature": rng.choice(FEATURES)})
        if dice < 0.8:
            return Action(
                "track",
                "Session Ended",
                {"workspace_id": workspace, "minutes": rng.randrange(5, 120), "boards": rng.randrange(1, 4)},
            )
        if dice < 0.85:
            return Action(
                "group", "", {"workspace_name": self.rows("workspaces")[workspace]["workspace_name"]}, group_id=workspace
            )
        return Action("screen", rng.choice(("Board", "Dashboard", "Members")), {"source": "navigation"})

    def contact(self, rng: random.Random) -> Action:
        topics = ("billing", "sign-in", "sharing", "performance", "other")
        return Action("track", "Support Contacted", {"topic": rng.choice(topics), "channel": rng.choice(("mail", "chat"))})

    def traits(self, person: Person) -> dict[str, Any]:
        return {
            "email": person.email,
            "first_name": person.first_name,
            "last_name": person.last_name,
            "language": "en",
        }

    def surveys(self, rng: random.Random, people: list[Person], window: tuple[int, int]) -> list[dict[str, Any]]:
        """Answers to the question how likely one is to recommend the product, from 0 to 10; low where an account is little used."""
        accounts, responses = self.rows("accounts"), []
        for person in people:
            asked = person.kind == CUSTOMER and person.signed_up and person.user_id is not None
            if not asked or rng.random() > _ANSWERING * (window[1] - window[0]) / (14 * DAY):
                continue
            engagement = accounts[self.state["account_of"][person.id]]["engagement"] or 50
            rating = max(0, min(10, round(rng.gauss(3 + engagement / 15, 2))))
            at = instant(rng.randrange(*window))
            response: dict[str, Any] = {
                "id": f"nps_{rng.getrandbits(64):016x}",
                "created": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "rating": rating,
                "category": "promoter" if rating >= 9 else "passive" if rating >= 7 else "detractor",
                "user": {"userId": person.user_id, "email": person.emails[0]},
            }
            if rng.random() < 0.4:
                response["feedback"] = rng.choice(FEEDBACK[rating >= 7])
            responses.append(response)
        return responses

    # -- entities ----------------------------------------------------------------------------------------------

    def prepare(self, rng: random.Random, profiles: int, end: int) -> None:
        today = instant(end).date()
        for number in range(max(6, profiles // PEOPLE_PER_ACCOUNT)):
            term_end = today + dt.timedelta(days=rng.randrange(-15, RENEWAL_AHEAD + 1))
            account: Row = {
                "account_id": f"ACT-{self.number('account'):05d}",
                "company_name": names.company(number),
                "plan": rng.choices(("team", "business", "enterprise"), (30, 45, 25))[0],
                "arr": float(rng.randrange(8, 160) * 1000),
                "seats_bought": rng.randrange(5, 60) * 5,
                "term_start": str(term_end - dt.timedelta(days=365)),
                "term_end": str(term_end),
                "engagement": rng.randrange(5, 96) if rng.random() < 0.96 else None,
            }
            csm = CSMS[number % len(CSMS)]
            account |= {"csm_name": csm, "csm_email": f"{names.ascii_slug(csm)}@mural.example.com"}
            self.rows("accounts")[account["account_id"]] = account
            for _ in range(rng.choices((1, 2, 3), (40, 40, 20))[0]):
                self._workspace(rng, account["account_id"], today)
        # The edges of "within the next 90 days": in today and out tomorrow, in both days, out today and in tomorrow.
        for account, days in zip(list(self.rows("accounts").values())[:3], (0, 90, 91), strict=True):
            edge: Row = {"arr": 90_000.0, "engagement": 30, "term_end": str(today + dt.timedelta(days=days))}
            self.rows("accounts")[account["account_id"]] = {**account, **edge}

    def _workspace(self, rng: random.Random, account_id: str, today: dt.date) -> None:
        number = self.number("workspace")
        workspace: Row = {
            "workspace_id": f"WSP-{number:05d}",
            "account_id": account_id,
            "workspace_name": f"{rng.choice(('Design', 'Product', 'People', 'Strategy', 'Delivery', 'Research'))} {number}",
            "board_count": rng.randrange(1, 400),
            "created_on": str(today - dt.timedelta(days=rng.randrange(40, 1_500))),
        }
        self.rows("workspaces")[workspace["workspace_id"]] = workspace

    def domain(self, rng: random.Random) -> str | None:
        """People of a company share its domain; the person then belongs to that company."""
        account = rng.choice(list(self.rows("accounts").values()))
        self.state["next_account"] = account["account_id"]
        return f"{names.ascii_slug(account['company_name'])}.example.com"

    def placed(self, person: Person) -> None:
        self.state.setdefault("account_of", {})[person.id] = self.state.pop("next_account")

    def populate(self, rng: random.Random, people: list[Person], end: int) -> Change:
        change = Change()
        for table in ("accounts", "workspaces"):
            for row in self.rows(table).values():
                change.add(table, row)
        for person in people:
            if person.kind == CUSTOMER and (not person.new or person.signed_up):
                self._register(rng, change, person, end)
        for number in range(max(1, len(people) // 12)):  # invited, never seen
            first, last = names.full_name(rng)
            address = names.email(rng, first, last, 900_000 + number, self.domain(rng))
            invited = f"{self.user_prefix}_{rng.getrandbits(48):012x}"
            self._user(rng, change, invited, address, f"{first} {last}", "invited", end)
            self._roles(rng, change, invited, self.state.pop("next_account"), end)
        return change

    def _register(self, rng: random.Random, change: Change, person: Person, end: int) -> None:
        assert person.user_id is not None
        self._user(rng, change, person.user_id, person.emails[0], f"{person.first_name} {person.last_name}", "active", end)
        self._roles(rng, change, person.user_id, self.state["account_of"][person.id], end)

    def _user(self, rng: random.Random, change: Change, user_id: str, address: str, name: str, status: str, end: int) -> None:
        since = instant(end).date() - dt.timedelta(days=rng.randrange(1, 900))
        change.add(
            "users", {"user_id": user_id, "email": address, "full_name": name, "signed_up_on": str(since), "status": status}
        )

    def _roles(self, rng: random.Random, change: Change, user_id: str, account_id: str, end: int) -> None:
        own = self._workspace_ids(account_id)
        for workspace_id in rng.sample(own, min(len(own), rng.choices((1, 2), (75, 25))[0])):
            role: Row = {
                "role_id": f"ROL-{self.number('role'):06d}",
                "user_id": user_id,
                "workspace_id": workspace_id,
                "role": rng.choices(ROLES, (60, 20, 10, 10))[0],
                "granted_on": str(instant(end).date() - dt.timedelta(days=rng.randrange(1, 900))),
            }
            self.rows("workspace_roles")[role["role_id"]] = role
            change.add("workspace_roles", role)

    def _workspace_ids(self, account_id: str) -> list[str]:
        if not hasattr(self, "_by_account"):
            self._by_account: dict[str, list[str]] = {}
            for row in self.rows("workspaces").values():
                self._by_account.setdefault(row["account_id"], []).append(row["workspace_id"])
        return self._by_account.get(account_id, [])

    def _workspaces_of(self, person: Person) -> list[str]:
        return self._workspace_ids(self.state["account_of"][person.id])

    def entities_of(self, people: list[Person]) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        workspaces = self.rows("workspaces")
        person_of = {p.user_id: p.id for p in people if p.user_id}
        for role in self.rows("workspace_roles").values():
            if role["user_id"] not in person_of:
                continue
            own = found.setdefault(person_of[role["user_id"]], {"workspace_roles": [], "workspaces": [], "accounts": []})
            own["workspace_roles"].append(role["role_id"])
            own["workspaces"].append(role["workspace_id"])
            account = workspaces[role["workspace_id"]]["account_id"]
            if account not in own["accounts"]:
                own["accounts"].append(account)
        return found

    # -- change ------------------------------------------------------------------------------------------------

    def plan(self, rng: random.Random, people: list[Person], window: tuple[int, int]) -> Plan:
        """Accounts lose or regain engagement, or renew; people of accounts at risk change their mind."""
        days = (window[1] - window[0]) / DAY
        today = instant(window[1]).date()
        plan = Plan()
        at_risk = [a for a in self.rows("accounts").values() if _at_risk(a, today)]
        safe = [a for a in self.rows("accounts").values() if not _at_risk(a, today) and _at_risk({**a, "engagement": 0}, today)]
        rng.shuffle(at_risk)
        moved = at_risk[: pick(rng, min(2.0, max(1.0, len(at_risk) / 5)), days)] if len(at_risk) > 1 else []
        for index, account in enumerate(moved):
            better: Row = {"engagement": 70} if index % 2 else _renewed(account)
            plan.change.replace("accounts", account["account_id"], {**account, **better})
        for account in rng.sample(safe, min(len(safe), pick(rng, 2, days))):
            plan.change.replace("accounts", account["account_id"], {**account, "engagement": rng.randrange(5, 35)})
        for workspace in rng.sample(list(self.rows("workspaces").values()), pick(rng, len(self.rows("workspaces")) * 0.2, days)):
            plan.change.replace(
                "workspaces",
                workspace["workspace_id"],
                {**workspace, "board_count": workspace["board_count"] + rng.randrange(1, 6)},
            )
        staying = {a["account_id"] for a in at_risk[len(moved) :]}
        account_of = self.state["account_of"]
        members = [
            p for p in people if p.kind == CUSTOMER and p.signed_up and p.consent is not None and account_of[p.id] in staying
        ]
        rng.shuffle(members)
        self._change_minds(rng, plan, members, days)
        return plan

    def _change_minds(self, rng: random.Random, plan: Plan, members: list[Person], days: float) -> None:
        few = max(1.0, len(members) * 0.03)
        consenting = [p for p in members if p.consent and p.consent["Advertising"]]
        refusing = [p for p in members if p.consent and not p.consent["Advertising"]]
        withdrawn = consenting[: pick(rng, few, days)]
        for person in withdrawn:
            plan.visit(person, CONSENT, {**(person.consent or {}), "Advertising": False})
        for person in refusing[: pick(rng, few, days)]:
            plan.visit(person, CONSENT, {**(person.consent or {}), "Advertising": True})
        for person in consenting[len(withdrawn) :][: pick(rng, 1, days)]:
            plan.visit(person, NEW_NAME)

    def last_day(self, rng: random.Random, people: list[Person]) -> dict[str, str]:
        ready = [p for p in people if p.kind == CUSTOMER and p.signed_up and p.consent is not None]
        ready = [p for p in ready if p.devices[0].private and len(p.devices) < 4 and p.devices[0].anonymous_id in p.signed_in]
        rng.shuffle(ready)
        chosen = ready[: max(1, len(people) // 150)]
        for person in chosen:
            person.devices.append(device(rng))
        return {p.id: CONFLICT for p in chosen}

    def joined(self, rng: random.Random, person: Person, window: tuple[int, int]) -> Change:
        change = Change()
        self._register(rng, change, person, window[1])
        return change


def _at_risk(account: Row, today: dt.date) -> bool:
    left = (dt.date.fromisoformat(account["term_end"]) - today).days
    return account["arr"] > 50_000 and 0 <= left <= 90 and account["engagement"] is not None and account["engagement"] <= 40


def _renewed(account: Row) -> Row:
    """The term that follows."""
    start = dt.date.fromisoformat(account["term_end"])
    return {"term_start": str(start), "term_end": str(start + dt.timedelta(days=365))}
