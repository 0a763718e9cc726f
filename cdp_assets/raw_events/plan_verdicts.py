"""From what is wrong in a message to what happens to it, by the options of its source.

The order is Segment's: unplanned events, unplanned properties, violations of the rule, and then the common schema, for what
the others let through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import orjson

from cdp_assets.raw_events.plan_findings import UNPLANNED, Finding, Path, dotted, of_common_schema
from cdp_assets.raw_events.plan_rules import DOCUMENT_OF_TYPE
from cdp_assets.space.enforcement import Enforcement

UNPLANNED_EVENT_REASON = "plan_unplanned_event"
VIOLATION_REASON = "plan_violation"
COMMON_REASON = "plan_common_violation"
PLAN_REASONS = (COMMON_REASON, UNPLANNED_EVENT_REASON, VIOLATION_REASON)
ALLOWED, OMITTED, BLOCKED = "allowed", "omitted", "blocked"
ACTIONS = (ALLOWED, BLOCKED, OMITTED)
_FIELDS_IN_DETAIL = 5


@dataclass(frozen=True)
class Controls:
    """What a source's options mean for calls of one type. ``document``: what can be omitted from."""

    document: str = ""
    block_unplanned: bool = False
    omit_unplanned: bool = False
    block_violations: bool = False
    omit_violations: bool = False
    common: Literal["allow", "block", "omit"] = "allow"

    def lenient(self) -> Controls:
        """For messages that were judged before they came: they are not blocked a second time."""
        common = "allow" if self.common == "block" else self.common
        return replace(self, block_unplanned=False, block_violations=False, common=common)


def controls_of(enforcement: Enforcement, kind: str) -> Controls:
    """The controls of a call type. Pages, screens and aliases have none."""
    if kind == "track":
        options = enforcement.track
        return Controls(
            DOCUMENT_OF_TYPE[kind],
            options.allow_unplanned_events is False,
            options.allow_unplanned_event_properties is False,
            options.allow_event_on_violations is False,
            options.allow_properties_on_violations is False,
            _common(options.common_event_on_violations),
        )
    if kind in ("identify", "group"):
        traits = enforcement.identify if kind == "identify" else enforcement.group
        return Controls(
            DOCUMENT_OF_TYPE[kind],
            omit_unplanned=traits.allow_unplanned_traits is False,
            omit_violations=traits.allow_traits_on_violations is False,
            common=_common(traits.common_event_on_violations),
        )
    return Controls()


def _common(option: str | None) -> Literal["allow", "block", "omit"]:
    if option == "block":
        return "block"
    return "omit" if option in ("omit_properties", "omit_traits") else "allow"


class Violation(NamedTuple):
    """A finding and what was done about it."""

    finding: Finding
    action: str


class Verdict(NamedTuple):
    """What happens to a message. ``reason``: why it does not go on, if it does not."""

    reason: str | None = None
    violations: tuple[Violation, ...] = ()
    omitted: tuple[Path, ...] = ()
    omitted_on_violation: tuple[Path, ...] = ()
    event_version: int | None = None

    @property
    def removed(self) -> tuple[Path, ...]:
        """Everything that is taken out of the message."""
        return (*self.omitted, *self.omitted_on_violation)

    @property
    def detail(self) -> str:
        """The first fields that are wrong, and how."""
        said = [f"{one.finding.field} {one.finding.description}" for one in self.violations]
        if self.reason == UNPLANNED_EVENT_REASON:
            return UNPLANNED.description
        more = len(said) - _FIELDS_IN_DETAIL
        return "; ".join(said[:_FIELDS_IN_DETAIL]) + (f"; and {more} more" if more > 0 else "")


CLEAN = Verdict()


def unplanned_event(controls: Controls) -> Verdict:
    """The verdict on an event without a rule."""
    if controls.block_unplanned:
        return Verdict(UNPLANNED_EVENT_REASON, (Violation(UNPLANNED, BLOCKED),))
    return Verdict(None, (Violation(UNPLANNED, ALLOWED),))


def by_rule(controls: Controls, version: int | None, findings: tuple[Finding, ...]) -> Verdict:
    """The verdict on a message by the rule of its event or call."""
    violated = any(not finding.unplanned for finding in findings)
    if violated and controls.block_violations:
        return Verdict(VIOLATION_REASON, tuple(Violation(finding, BLOCKED) for finding in findings), (), (), version)
    violations: list[Violation] = []
    omitted: list[Path] = []
    on_violation: list[Path] = []
    for finding in findings:
        omit = controls.omit_unplanned if finding.unplanned else controls.omit_violations
        removal = _removable(controls, finding) if omit else None
        violations.append(Violation(finding, OMITTED if removal else ALLOWED))
        if removal:
            (omitted if finding.unplanned else on_violation).append(removal)
    return Verdict(None, tuple(violations), _distinct(omitted), _distinct(on_violation), version)


def by_common_schema(controls: Controls, findings: tuple[Finding, ...]) -> Verdict:
    """The verdict on a message by the common schema."""
    found = tuple(of_common_schema(finding) for finding in findings)
    if controls.common == "block":
        return Verdict(COMMON_REASON, tuple(Violation(finding, BLOCKED) for finding in found))
    removals = [_removable(controls, finding) if controls.common == "omit" else None for finding in found]
    violations = tuple(Violation(f, OMITTED if r else ALLOWED) for f, r in zip(found, removals, strict=True))
    return Verdict(None, violations, (), _distinct([removal for removal in removals if removal]))


def together(first: Verdict, common: Verdict) -> Verdict:
    """Both verdicts as one. What does not go on is blocked in all its violations."""
    reason = first.reason or common.reason
    violations = (*first.violations, *common.violations)
    if reason is not None:
        blocked = tuple(one._replace(action=BLOCKED) for one in violations)
        return Verdict(reason, blocked, (), (), first.event_version)
    on_violation = _distinct([*first.omitted_on_violation, *common.omitted_on_violation])
    return Verdict(None, violations, first.omitted, on_violation, first.event_version)


def _removable(controls: Controls, finding: Finding) -> Path | None:
    removal = finding.removal
    return removal if removal is not None and removal[0] == controls.document else None


def _distinct(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))


# -- context.protocols ---------------------------------------------------------------------------------------------------


def annotation(verdict: Verdict, source: str | None) -> dict[str, object]:
    """``context.protocols`` of a message that goes on."""
    said: dict[str, object] = {"sourceId": source}
    if verdict.omitted:
        said["omitted"] = _fields(verdict.omitted)
    if verdict.omitted_on_violation:
        said["omitted_on_violation"] = _fields(verdict.omitted_on_violation)
    said["violations"] = [
        {"type": one.finding.kind, "field": one.finding.field, "description": one.finding.description}
        for one in verdict.violations
    ]
    return said


def _fields(paths: tuple[Path, ...]) -> list[str]:
    return list(dict.fromkeys(dotted(path) for path in paths))


def annotated(context: str | None, said: dict[str, object]) -> str:
    """A context with the annotation, added to one that is there already."""
    document = orjson.loads(context) if context else {}
    there = document.get("protocols")
    merged = dict(there) if isinstance(there, dict) else {}
    merged.setdefault("sourceId", said["sourceId"])
    for name in ("omitted", "omitted_on_violation", "violations"):
        if name in said:
            earlier = merged.get(name)
            added: list = said[name]  # type: ignore[assignment]
            merged[name] = [*earlier, *(one for one in added if one not in earlier)] if isinstance(earlier, list) else added
    document["protocols"] = merged
    return orjson.dumps(document).decode()


def judged_before(protocols: object) -> bool:
    """Whether ``context.protocols`` says that a tracking plan judged the message before it came, and found something."""
    if not isinstance(protocols, dict):
        return False
    found = (protocols.get(name) for name in ("omitted", "omitted_on_violation", "violations"))
    return any(isinstance(one, list) and one for one in found)
