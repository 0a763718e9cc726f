"""Identity resolution as it reads in the rules: one event after another, plain Python, slow, sharing no code with the product.

Messages are Segment's JSON as dicts. The rules are Segment's, and the project's own for shared devices, separations and removals
(docs/identity.md); only the settings' model comes from the product.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdp_assets.space.models.settings import IdentitySettings

Identifier = tuple[str, str]

WINDOW_DAYS = {"annually": 365, "monthly": 30, "weekly": 7, "daily": 1}
DEVICE_TYPES = (
    "anonymous_id",
    "android.id",
    "android.idfa",
    "android.push_token",
    "ios.id",
    "ios.idfa",
    "ios.push_token",
    "ga_client_id",
)
ALPHABETICAL = DEVICE_TYPES  # every documented type but user_id and email
NEVER = -1


@dataclass(frozen=True)
class Correction:
    """``separate``: nobody holds one of ``a`` and one of ``b``. ``remove``: ``a`` loses its profile at ``at`` (naive UTC)."""

    id: str
    kind: str
    a: frozenset[Identifier]
    b: frozenset[Identifier] = frozenset()
    at: dt.datetime | None = None


@dataclass
class Profile:
    """Its id, the number of the entry that created it, its identifiers with their times, and how many profiles it took in."""

    id: str
    created: int
    attached: dict[Identifier, dt.datetime] = field(default_factory=dict)
    merges: int = 0
    consent: dict[str, str] | None = None
    # identifier type -> number of the entry that showed the type last, and the identifiers that it showed
    shown: dict[str, tuple[int, set[Identifier]]] = field(default_factory=dict)


@dataclass
class NaiveIdentity:
    """Everything that follows from a history. Give it :meth:`live`; entries are messages and removals, named by their id.

    ``events``: message -> profile id at event time. ``graph``: (entry, profile, part of). ``rows``: (entry, profile, identifier,
    operation) of the mapping log. ``violations``: (entry, type, value, reason). ``states``: (entry, profile, category, state).
    ``traits``: (entry, profile, name, value).
    """

    settings: IdentitySettings = field(default_factory=IdentitySettings)
    categories: tuple[str, ...] = ()
    corrections: Sequence[Correction] = ()
    max_merges: int = 100
    max_mappings: int = 1000
    profiles: list[Profile] = field(default_factory=list)
    owner: dict[Identifier, Profile] = field(default_factory=dict)
    canonical: dict[str, str] = field(default_factory=dict)
    events: dict[str, str | None] = field(default_factory=dict)
    graph: list[tuple[str, str, str]] = field(default_factory=list)
    rows: list[tuple[str, str, Identifier, str]] = field(default_factory=list)
    violations: list[tuple[str, str | None, str | None, str]] = field(default_factory=list)
    states: list[tuple[str, str, str, str]] = field(default_factory=list)
    consents: list[tuple[str, str, str, bool]] = field(default_factory=list)
    traits: list[tuple[str, str, str, Any]] = field(default_factory=list)
    newest_row: dict[Identifier, int] = field(default_factory=dict)
    ranks: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {rule.type: rule.priority for rule in self.settings.identifiers}
        others = {*ALPHABETICAL, *self.settings.custom, *given} - {"user_id", "email"}
        for position, kind in enumerate(["user_id", "email", *sorted(others)], start=1):
            self.ranks[kind] = (given.get(kind) or position, position, kind)

    # -- a history -------------------------------------------------------------------------------------------------

    def live(self, messages: Iterable[dict[str, Any]], as_of: dt.datetime | None = None) -> NaiveIdentity:
        """Go through everything that was received before ``as_of`` (naive UTC), in received order."""
        for number, (at, name, entry) in enumerate(received_order(messages, self.corrections)):
            if as_of is not None and at >= as_of:
                break
            if isinstance(entry, Correction):
                self.remove(number, entry)
            else:
                self.take(number, at, name, entry)
        return self

    def remove(self, number: int, removal: Correction) -> None:
        for identifier in removal.a:
            profile = self.owner.get(identifier)
            if profile is None:
                continue
            if identifier[0] == "user_id" and len([i for i in profile.attached if i[0] == "user_id"]) == 1:
                self.violations.append((removal.id, *identifier, "removal_refused"))
                continue
            del self.owner[identifier], profile.attached[identifier]
            self.newest_row.pop(identifier, None)
            if identifier[0] in profile.shown:
                profile.shown[identifier[0]][1].discard(identifier)
            self.rows.append((removal.id, profile.id, identifier, "REMOVED"))

    def take(self, number: int, at: dt.datetime, name: str, message: dict[str, Any]) -> None:
        found = places(message, self.settings)
        for identifier in found:
            if blocked(identifier[1], self.settings):
                self.violations.append((name, *identifier, "id_value_blocked"))
        left = [identifier for identifier in found if not blocked(identifier[1], self.settings)]
        while left and (refusal := self.refusal(left, at)):
            identifiers, reason = refusal
            for identifier in identifiers:
                left.remove(identifier)
                self.violations.append((name, *identifier, reason))
        if not left:
            self.events[name] = None
            self.violations.append((name, None, None, "no_matching_identifiers"))
            return
        consent_before = {owner.id: owner.consent for owner in self.owners(left)}
        profile = self.settle(number, at, name, left)
        self.events[name] = profile.id
        self.show(number, name, profile, left)
        self.hear(name, profile, message, consent_before.get(profile.id))

    # -- what is dropped -------------------------------------------------------------------------------------------

    def refusal(self, left: list[Identifier], at: dt.datetime) -> tuple[list[Identifier], str] | None:
        """The identifiers to drop now and why; None when the rest may stay."""
        strangers = self.strangers(left)
        if strangers:
            return strangers, "shared_device"
        owners, fresh = self.owners(left), [i for i in left if i not in self.owner]
        if not fresh and len(owners) <= 1:
            return None
        together = {*fresh, *(i for owner in owners for i in owner.attached)}
        reason = None
        if any(together & c.a and together & c.b for c in self.corrections if c.kind == "separate"):
            reason = "separated"
        else:
            reason = self.excess(owners, fresh, at)
        if reason is None:
            return None
        lowest = left[0]
        for identifier in left:
            if self.rank(identifier[0]) >= self.rank(lowest[0]):
                lowest = identifier
        return [lowest], reason

    def owners(self, left: list[Identifier]) -> list[Profile]:
        """Oldest first."""
        return sorted({p.id: p for i in left if (p := self.owner.get(i))}.values(), key=lambda p: p.created)

    def strangers(self, left: list[Identifier]) -> list[Identifier]:
        """Devices of somebody else than whom the event is about."""
        if getattr(self.settings, "shared_devices", "merge") != "separate":
            return []
        devices = tuple(getattr(self.settings, "device_types", DEVICE_TYPES))
        persons = [i for i in left if i[0] not in devices]

        def known_owner(identifier: Identifier) -> Profile | None:
            owner = self.owner.get(identifier)
            return owner if owner and any(kind not in devices for kind, _ in owner.attached) else None

        owned = [i for i in left if i[0] in devices and known_owner(i)]
        if persons:
            return [i for i in owned if not any(p in self.owner[i].attached for p in persons)]
        if not owned:
            return []
        anchor = self.owner[min(owned, key=lambda i: (self.rank(i[0]), left.index(i)))]
        return [i for i in owned if self.owner[i] is not anchor]

    def excess(self, owners: list[Profile], fresh: list[Identifier], at: dt.datetime) -> str | None:
        held = [(identifier, since) for owner in owners for identifier, since in owner.attached.items()]
        for kind in sorted({i[0] for i in fresh} | {i[0] for i, _ in held}, key=self.rank):
            most, window = self.limit(kind)
            count = len([i for i in fresh if i[0] == kind])
            for identifier, since in held:
                if identifier[0] == kind and (window == "ever" or at - since < dt.timedelta(days=WINDOW_DAYS[window])):
                    count += 1
            if count > most:
                return "identifier_value_limit_exceeded" if window == "ever" else "identifier_value_time_limit_exceeded"
        return None

    def limit(self, kind: str) -> tuple[int, str]:
        for rule in self.settings.identifiers:
            if rule.type == kind:
                return rule.limit, rule.window
        return (1, "ever") if kind == "user_id" else (5, "ever")

    def rank(self, kind: str) -> tuple[int, int, str]:
        """Smaller is more important: the given priority, else user_id 1, email 2, the rest alphabetical, unheard-of types last."""
        if kind not in self.ranks:
            return (1_000_000, 0, kind)
        return self.ranks[kind]

    # -- what is kept ----------------------------------------------------------------------------------------------

    def settle(self, number: int, at: dt.datetime, name: str, left: list[Identifier]) -> Profile:
        """Create, merge and attach; the profile that the event belongs to."""
        owners, fresh = self.owners(left), [i for i in left if i not in self.owner]
        if owners:
            target = owners[0]
        else:
            best = min(left, key=lambda i: (self.rank(i[0]), left.index(i)))
            target = Profile(profile_id(best, name), number)
            self.profiles.append(target)
            self.canonical[target.id] = target.id
            self.graph.append((name, target.id, target.id))
        for other in owners[1:]:
            if any(p.merges >= self.max_merges or len(p.attached) >= self.max_mappings for p in (target, other)):
                link = next(i for i in left if self.owner.get(i) is other)
                self.violations.append((name, *link, "profile_merge_limit_reached"))
            else:
                self.merge(name, target, other)
        for identifier in sorted(fresh, key=lambda i: (self.rank(i[0]), left.index(i))):
            if len(target.attached) >= self.max_mappings:
                self.violations.append((name, *identifier, "profile_mapping_limit_reached"))
            else:
                target.attached[identifier] = at
                self.owner[identifier] = target
        return target

    def merge(self, name: str, target: Profile, other: Profile) -> None:
        target.merges += other.merges + 1
        target.attached.update(other.attached)
        for identifier in other.attached:
            self.owner[identifier] = target
        for kind, last in other.shown.items():
            target.shown[kind] = max(target.shown.get(kind, (NEVER, set())), last, key=lambda shown: shown[0])
        for part, whole in self.canonical.items():
            if whole == other.id:
                self.canonical[part] = target.id
                self.graph.append((name, part, target.id))
        self.profiles.remove(other)
        if target.consent or other.consent:
            never = dict.fromkeys(self.categories, "false")
            mine, theirs = target.consent or never, other.consent or never
            target.consent = {c: mine[c] if mine[c] == theirs[c] else "conflict" for c in self.categories}

    def show(self, number: int, name: str, profile: Profile, left: list[Identifier]) -> None:
        """Rows of the mapping log: of the values of a type that are not those shown before, and those needed for this:

        the values of a type that the profile showed last have the highest seq among its values of that type.
        """
        mine = [i for i in left if self.owner.get(i) is profile]
        changed = set()
        for kind in {i[0] for i in mine}:
            values = {i for i in mine if i[0] == kind}
            if kind not in profile.shown or profile.shown[kind][1] != values:
                changed.add(kind)
            profile.shown[kind] = (number, values)
        for kind, (_, last) in sorted(profile.shown.items()):
            newest = {i: self.newest_row.get(i, NEVER) for i in profile.attached if i[0] == kind}
            leading = {i for i, row in newest.items() if row == max(newest.values())}
            if kind in changed or leading != last:
                for identifier in sorted(last):
                    self.newest_row[identifier] = number
                    self.rows.append((name, profile.id, identifier, "CREATED"))

    # -- what the event says about the profile ---------------------------------------------------------------------

    def hear(self, name: str, profile: Profile, message: dict[str, Any], before: dict[str, str] | None) -> None:
        given = at_path(message, "context", "consent", "categoryPreferences")
        if isinstance(given, dict):
            self.consents += [(name, profile.id, c, given.get(c) is True) for c in self.categories]
            profile.consent = {c: "true" if given.get(c) is True else "false" for c in self.categories}
        for category, state in (profile.consent or {}).items():
            if before is None or before[category] != state:
                self.states.append((name, profile.id, category, state))
        if message["type"] == "identify":
            self.traits += [(name, profile.id, trait, value) for trait, value in (message.get("traits") or {}).items()]

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def identifiers(self) -> dict[Identifier, str]:
        """Identifier -> canonical profile now."""
        return {identifier: profile.id for identifier, profile in self.owner.items()}

    def traits_now(self) -> dict[tuple[str, str], Any]:
        """(canonical profile, trait) -> its newest value, unless that is null."""
        newest = {(self.canonical[profile], trait): value for _, profile, trait, value in self.traits}
        return {key: value for key, value in newest.items() if value is not None}


# -- order ---------------------------------------------------------------------------------------------------------------


def instant(text: str) -> dt.datetime:
    """ISO-8601 -> naive UTC."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None)


def received_order(
    messages: Iterable[dict[str, Any]], corrections: Sequence[Correction] = ()
) -> list[tuple[dt.datetime, str, dict[str, Any] | Correction]]:
    """(received at, id, entry) of each message once, at its first arrival, and of each removal."""
    first: dict[str, tuple[dt.datetime, str, dict[str, Any] | Correction]] = {}
    for message in messages:
        entry = (instant(message["receivedAt"]), message["messageId"], message)
        if message["messageId"] not in first or entry[0] < first[message["messageId"]][0]:
            first[message["messageId"]] = entry
    removals = [(c.at, c.id, c) for c in corrections if c.kind == "remove" and c.at]
    return sorted([*first.values(), *removals], key=lambda entry: entry[:2])


def seqs(messages: Iterable[dict[str, Any]], corrections: Sequence[Correction] = ()) -> dict[str, int]:
    """Entry -> its seq: the second times 2^31, and the entry's number within that second."""
    found: dict[str, int] = {}
    last, rank = None, 0
    for at, name, _ in received_order(messages, corrections):
        second = int((at - dt.datetime(1970, 1, 1)) // dt.timedelta(seconds=1))
        rank = rank + 1 if second == last else 1
        last = second
        found[name] = second * 2**31 + rank
    return found


def profile_id(identifier: Identifier, message_id: str) -> str:
    content = json.dumps([*identifier, message_id], ensure_ascii=False)
    return "use_" + hashlib.sha256(content.encode()).hexdigest()[:27]


# -- identifiers of a message --------------------------------------------------------------------------------------------


def at_path(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def places(message: dict[str, Any], settings: IdentitySettings) -> list[Identifier]:
    """Every identifier of a message once, blocked ones too, in the order in which its places are read."""
    found: list[tuple[str, Any]] = [("user_id", message.get("userId"))]
    found += [("email", at_path(message, *path, "email")) for path in (("traits",), ("context", "traits"), ("properties",))]
    found += [("anonymous_id", message.get("anonymousId"))]
    found += [("ga_client_id", at_path(message, "context", "integrations", "Google Analytics", "clientId"))]
    for kind, key in settings.custom.items():
        for path in (("traits",), ("context", "traits"), ("properties",)):
            found += [(kind, at_path(message, *path, spelling)) for spelling in spellings(key)]
    texts = [(kind, as_text(value)) for kind, value in found]
    texts += device_of(at_path(message, "context", "device")) + externals_of(at_path(message, "context", "externalIds"))
    once: list[Identifier] = []
    for kind, text in texts:
        if text is not None and not text.startswith(("{", "[")) and (kind, text) not in once:
            once.append((kind, text))
    return once


def spellings(key: str) -> list[str]:
    """As given, in snake_case, in camelCase."""
    snake = ""
    for before, letter in zip(" " + key, key, strict=False):
        starts_word = letter.isupper() and (before.islower() or before.isdigit())
        snake += ("_" if starts_word else "") + letter.lower()
    words = snake.split("_")
    camel = words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])
    return list(dict.fromkeys([key, snake, camel]))


def as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def device_of(device: Any) -> list[tuple[str, str | None]]:
    platform = at_path(device, "type")
    if not isinstance(platform, str) or platform.lower() not in ("android", "ios"):
        return []
    keys = [("id", "id"), ("idfa", "advertisingId"), ("push_token", "token")]
    if device.get("adTrackingEnabled") is not True:
        keys.pop(1)
    return [(f"{platform.lower()}.{name}", device[key]) for name, key in keys if isinstance(device.get(key), str)]


def externals_of(entries: Any) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for entry in entries if isinstance(entries, list) else []:
        given = [at_path(entry, key) for key in ("id", "type", "collection", "encoding")]
        if all(isinstance(value, str) for value in given):
            value, kind, collection, encoding = given
            if (collection, encoding) == ("users", "none") and kind == kind.lower():
                found.append((kind, value))
    return found


def blocked(value: str, settings: IdentitySettings) -> bool:
    if value == "":
        return True
    return any(value == rule.exact or (rule.regex and re.fullmatch(rule.regex, value)) for rule in settings.blocked)
