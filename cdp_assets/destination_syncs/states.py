"""The state machine of a key, in one place: what each trigger does with each transition, and what stands in the way.

A key is (unit, destination key) of one activation at one account. Its *facts* are one row of booleans and words (:data:`FACTS`); the
rules below decide, first match first, what happens to it in this sync:

* ``operation``: what to send (enter, change, exit, retract), or '' for nothing;
* ``effect``: what to record in the ledger without sending (:class:`Effect`);
* ``outcome``: how the key is counted (:class:`Outcome`), ``planned`` when an operation is to be sent.

Everything here is pure: words, tables, and expressions over a table of facts. What a delivered, rejected, waiting or unknown answer
does to the ledger is in :mod:`settle`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import ibis
import ibis.expr.types as ir

from resources.destinations import Capabilities


class Op(StrEnum):
    """What is sent. A change is also how a unit moves to another destination key within its episode."""

    none = ""
    enter = "enter"
    change = "change"
    exit = "exit"
    retract = "retract"


# Removals go first, so that a key that changes hands within one sync ends with its new holder.
RANK: Final = {Op.retract: 0, Op.exit: 1, Op.change: 2, Op.enter: 3}


class Outcome(StrEnum):
    """How a key is counted. ``planned`` turns into one of the others when the sync settles."""

    planned = "planned"
    unchanged = "unchanged"
    delivered = "delivered"
    rejected = "rejected"
    waiting = "waiting"
    unknown = "unknown"
    withheld = "withheld"
    held = "held"


class Effect(StrEnum):
    """What is recorded without sending."""

    none = ""
    arm = "arm"  # in, with the newest payload taken as confirmed
    disarm = "disarm"  # out; what the destination holds stays there
    drop = "drop"  # out, and no longer ours there: another row of the person, or another unit, has the place
    close = "close"  # an attempt that no longer matters
    expire = "expire"  # gave up waiting


class Reaction(StrEnum):
    send = "send"
    record = "record"
    nothing = "nothing"


@dataclass(frozen=True)
class Reactions:
    """What a trigger does when a unit enters, exits, or changes its payload while in."""

    enter: Reaction
    exit: Reaction
    change: Reaction


TRIGGERS: Final = {
    "enters": Reactions(Reaction.send, Reaction.record, Reaction.nothing),
    "exits": Reactions(Reaction.record, Reaction.send, Reaction.nothing),
    "enters_or_exits": Reactions(Reaction.send, Reaction.send, Reaction.nothing),
    "upsert": Reactions(Reaction.send, Reaction.record, Reaction.send),
    "mirror": Reactions(Reaction.send, Reaction.send, Reaction.send),
    "occurs": Reactions(Reaction.send, Reaction.nothing, Reaction.nothing),
}
# Why an event is passed over for good: what its person agrees to, or is known by, later is no reason to send it then.
FINAL_VERDICTS: Final = ("consent", "suppressed", "no_identifier", "filter")


@dataclass(frozen=True)
class Policy:
    """What is the same for all keys of one sync."""

    reactions: Reactions
    resend: Literal["set", "upsert", "append", "insert_only"]
    can_retract: bool
    resend_unknown: bool = False
    retiring: bool = False
    # units are events: each is sent at most once, and nothing takes it back
    once: bool = False

    @property
    def append(self) -> bool:
        return self.resend == "append"

    @property
    def blocks_unknown(self) -> bool:
        """Nothing may be sent to a key whose last append has no answer, until someone decides."""
        return self.append and not self.resend_unknown


def policy_of(
    when: str,
    capabilities: Capabilities,
    *,
    property_changes: bool = False,
    resend_unknown: bool = False,
    retiring: bool = False,
) -> Policy:
    """The policy of a trigger at a destination. ``property_changes`` counts only with enters_or_exits."""
    reactions = TRIGGERS[when]
    if property_changes and when == "enters_or_exits":
        reactions = Reactions(reactions.enter, reactions.exit, Reaction.send)
    once = when == "occurs"
    can_retract = capabilities.retract != "none" and not once
    return Policy(reactions, capabilities.resend, can_retract, resend_unknown, retiring, once)


FACTS: Final = {
    # in the payloads now; verdict says whether its message may go ('ok'), and why not
    "desired": "boolean",
    "verdict": "string",
    # from the ledger's row of this key
    "present": "boolean",
    "held": "boolean",
    "status": "string",
    "tried": "string",
    "uncertain": "string",
    # payload differs from the confirmed one; the same was tried under the same definition; waiting is over; waited too long
    "changed": "boolean",
    "same": "boolean",
    "due": "boolean",
    "expired": "boolean",
    # the person is in under another key; this row is such another key; someone else has this row's key now;
    # a second row of the same person and key
    "moved": "boolean",
    "loser": "boolean",
    "claimed": "boolean",
    "shadow": "boolean",
    # the person may not be sent to, and why
    "closed": "boolean",
    "closed_reason": "string",
    # differences of this key are recorded, not sent: first run, release by rebaseline, unmerge
    "rebase": "boolean",
}

# Reasons that are read from a column of the facts.
_CLOSED, _VERDICT = "@closed_reason", "@verdict"


@dataclass(frozen=True)
class Rule:
    """A case, and what it decides. ``name`` appears in explanations and tests."""

    name: str
    when: Callable[[ir.Table], ir.BooleanValue]
    operation: Op = Op.none
    effect: Effect = Effect.none
    outcome: Outcome = Outcome.unchanged
    reason: str = ""


def _send(name: str, when: Callable[[ir.Table], ir.BooleanValue], operation: Op, reason: str = "") -> Rule:
    return Rule(name, when, operation, outcome=Outcome.planned, reason=reason)


def maybe(f: ir.Table) -> ir.BooleanValue:
    """Not in by the ledger, but an enter or change went out without an answer."""
    return ~f.present & f.uncertain.isin([Op.enter, Op.change])


def _holds(f: ir.Table) -> ir.BooleanValue:
    return f.held | maybe(f)


def _inside(f: ir.Table) -> ir.BooleanValue:
    return f.present | maybe(f)


def _moving(f: ir.Table) -> ir.BooleanValue:
    """Under way from another key: now, or in an earlier sync that did not get through."""
    pending = f.status.isin([Outcome.waiting, Outcome.unknown, Outcome.rejected]) & (f.tried == Op.change)
    return f.moved | (pending & ~f.present)


def wishes(policy: Policy) -> list[Rule]:
    """What a key calls for, before anything stands in its way. The last rule always matches."""
    enter, exit_, change = policy.reactions.enter, policy.reactions.exit, policy.reactions.change
    sends_enter = enter is Reaction.send
    rules = [Rule("shadow", lambda f: f.shadow, effect=Effect.drop)]
    if policy.once:
        rules.append(Rule("has been dealt with", lambda f: (f.present | f.held) & (f.uncertain == "") & ~f.desired))
        rules.append(Rule("sent before", lambda f: f.held & ~f.present & f.desired, effect=Effect.arm))
    if policy.blocks_unknown:
        rules.append(
            Rule("blocked", lambda f: f.uncertain != "", outcome=Outcome.unknown, reason="no answer, sending twice is unsafe")
        )

    # Other rows of one person: never an exit message.
    rules.append(Rule("key taken over", lambda f: f.loser & f.claimed, effect=Effect.drop))
    if policy.can_retract and not policy.append:
        rules.append(Rule("rebased key", lambda f: f.loser & f.rebase & ~f.closed, effect=Effect.drop))
        rules.append(_send("replaced key", lambda f: f.loser & _holds(f), Op.retract, "replaced"))
    rules.append(Rule("dropped key", lambda f: f.loser, effect=Effect.drop))

    # Consent closes what adds or updates, and takes back what is there. An exit is not sent, now or later.
    if policy.can_retract:
        rules.append(_send("withdrawn", lambda f: f.closed & _holds(f), Op.retract, _CLOSED))
    rules += [
        Rule("left closed", lambda f: f.closed & ~f.desired & _inside(f), Op.none, Effect.disarm, Outcome.withheld, _CLOSED),
        Rule(
            "closed",
            lambda f: f.closed & f.desired,
            effect=Effect.arm if policy.once else Effect.none,
            outcome=Outcome.withheld,
            reason=_CLOSED,
        ),
        Rule("closed and gone", lambda f: f.closed, effect=Effect.close),
    ]

    # Differences that are recorded, not sent.
    differs = lambda f: ~f.present | f.changed | (f.uncertain != "")  # noqa: E731
    rules += [
        Rule("baseline", lambda f: f.rebase & f.desired & (f.verdict == "ok") & differs(f), effect=Effect.arm),
        Rule("baseline out", lambda f: f.rebase & ~f.desired & _inside(f), effect=Effect.disarm),
    ]

    # In now, not before.
    entered = lambda f: f.desired & ~f.present  # noqa: E731
    if sends_enter and not policy.append:
        rules.append(_send("moved", lambda f: entered(f) & _moving(f), Op.change))
    rules.append(Rule("moved silently", lambda f: entered(f) & f.moved, effect=Effect.arm))
    if sends_enter:
        rules.append(_send("entered", entered, Op.enter))
    else:
        rules.append(Rule("entered silently", entered, effect=Effect.arm))

    # In now and before. An attempt without an answer leaves the destination in doubt: say again what should be there.
    stayed = lambda f: f.desired & f.present  # noqa: E731
    if sends_enter:
        rules.append(_send("back in doubt", lambda f: stayed(f) & f.uncertain.isin([Op.exit, Op.retract, Op.enter]), Op.enter))
    if change is Reaction.send:
        rules.append(_send("changed", lambda f: stayed(f) & (f.changed | (f.uncertain != "")), Op.change))
    rules += [
        Rule(
            "stays, attempt moot", lambda f: stayed(f) & ~f.status.isin(["", "recorded", Outcome.delivered]), effect=Effect.close
        ),
        Rule("stays", stayed),
    ]

    # Out now, in before.
    left = lambda f: ~f.desired & _inside(f)  # noqa: E731
    if exit_ is Reaction.send:
        rules.append(_send("left", left, Op.exit))
    elif policy.retiring and policy.can_retract:
        rules.append(_send("retired", lambda f: left(f) & _holds(f), Op.retract, "retired"))
    rules += [
        Rule("left silently", left, effect=Effect.disarm),
        Rule("gone", lambda f: ~f.desired, effect=Effect.close),
    ]
    return rules


def gates(policy: Policy) -> list[Rule]:
    """What stands in the way of a wish to send. Facts have the wish as ``wish``."""
    adds = lambda f: f.wish.isin([Op.enter, Op.change])  # noqa: E731
    waits = lambda f: f.status == Outcome.waiting  # noqa: E731
    final = lambda f: adds(f) & f.verdict.isin(FINAL_VERDICTS)  # noqa: E731
    passed = [Rule("passed over", final, effect=Effect.arm, outcome=Outcome.withheld, reason=_VERDICT)] if policy.once else []
    return [
        *passed,
        Rule("withheld", lambda f: adds(f) & (f.verdict != "ok"), outcome=Outcome.withheld, reason=_VERDICT),
        Rule(
            "rejected before",
            lambda f: (f.status == Outcome.rejected) & (f.tried == f.wish) & f.same,
            outcome=Outcome.rejected,
            reason="@row_reason",
        ),
        Rule("waiting", lambda f: waits(f) & ~f.due, outcome=Outcome.waiting, reason="@row_reason"),
        Rule("expired", lambda f: waits(f) & f.expired, effect=Effect.expire, outcome=Outcome.rejected, reason="expired"),
    ]


def _value(facts: ir.Table, word: str) -> ir.StringValue:
    return facts[word[1:]] if word.startswith("@") else ibis.literal(word, type="string")


def _first(facts: ir.Table, rules: Sequence[Rule], otherwise: str) -> ir.StringValue:
    """Name of the first rule that matches."""
    return ibis.cases(*((rule.when(facts), rule.name) for rule in rules), else_=otherwise)


def _of(facts: ir.Table, name: ir.StringValue, rules: Sequence[Rule], pick: Callable[[Rule], str]) -> ir.StringValue:
    """What the rule called ``name`` says."""
    by_word: dict[str, list[str]] = {}
    for rule in rules:
        by_word.setdefault(pick(rule), []).append(rule.name)
    by_word.pop("", None)
    branches = [(name.isin(names), _value(facts, word)) for word, names in by_word.items()]
    return ibis.cases(*branches, else_="")


def decide(facts: ir.Table, policy: Policy) -> ir.Table:
    """``facts`` (columns :data:`FACTS` and ``row_reason``) with ``rule``, ``operation``, ``effect``, ``outcome`` and ``reason``.

    ``operation`` stays filled where a gate closed: it is what would have been sent.
    """
    wished, barred = wishes(policy), gates(policy)
    rows = facts.mutate(wished=_first(facts, wished, otherwise="gone"))
    rows = rows.mutate(wish=_of(rows, rows.wished, wished, lambda rule: rule.operation))
    rows = rows.mutate(
        rule=ibis.cases((rows.wish == "", rows.wished), *((r.when(rows), r.name) for r in barred), else_=rows.wished)
    )
    every = [*wished, *barred]
    return rows.select(
        *facts.columns,
        "rule",
        operation=rows.wish,
        effect=_of(rows, rows.rule, every, lambda rule: rule.effect),
        outcome=_of(rows, rows.rule, every, lambda rule: rule.outcome),
        reason=_of(rows, rows.rule, every, lambda rule: rule.reason),
    )


def under_hold(decided: ir.Table, hold: str, *, retracts_pass: bool) -> ir.Table:
    """``decided`` when the sync holds for ``hold``: nothing is sent and nothing moves.

    Keys that would be sent, or would be recorded as in or out, are held; all others keep their outcome. With ``retracts_pass`` the
    retracts that consent requires still go.
    """
    moves = (decided.outcome == Outcome.planned) | decided.effect.isin([Effect.arm, Effect.disarm, Effect.drop, Effect.expire])
    moves = moves & (decided.outcome != Outcome.withheld)
    if retracts_pass:
        passes = (decided.rule == "withdrawn") & (decided.outcome == Outcome.planned)
        moves = moves & ~passes
    return decided.mutate(
        outcome=ibis.ifelse(moves, str(Outcome.held), decided.outcome),
        reason=ibis.ifelse(moves, hold, decided.reason),
        effect=ibis.literal(""),
    )


def episode_of(facts: ir.Table) -> ir.IntegerValue:
    """The episode that a decided operation or effect belongs to. ``facts`` has operation, effect, episode and moved_episode."""
    begins = (facts.operation == Op.enter) | ((facts.effect == Effect.arm) & ~facts.present & ~facts.moved)
    moves = facts.moved & ((facts.operation == Op.change) | (facts.effect == Effect.arm)) & ~facts.present
    # An exit after an enter without answer closes the episode that that enter began.
    ends_unanswered = facts.operation.isin([Op.exit, Op.retract]) & (facts.uncertain == Op.enter)
    return ibis.cases((moves, facts.moved_episode), (begins | ends_unanswered, facts.episode + 1), else_=facts.episode)


def message_id(
    activation: str, account: str, unit: str, destination_key: str, operation: str, episode: int, payload_hash: str = ""
) -> str:
    """The message id of an operation: the same for the same change, whatever the run, clock or as_of.

    ``payload_hash`` counts for changes only. The same formula as :func:`message_id_expression`.
    """
    parts = [activation, account, _digest(unit), _digest(destination_key), operation, str(episode)]
    if operation == Op.change:
        parts.append(payload_hash)
    return _digest("|".join(parts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
