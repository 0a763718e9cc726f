"""FQL: conditions on a message, as filters and transformations write them, and as subscriptions of action destinations.

``compile(text)`` gives the condition as a function of a message document (Segment's JSON: ``type``, ``event``, ``properties``, …).
What belongs here: the language. What does not: which messages there are, and what follows from a condition.
"""

from __future__ import annotations

from cdp_assets.space.fql.evaluator import Message, Predicate, Reader, predicate, reader
from cdp_assets.space.fql.functions import text_of
from cdp_assets.space.fql.generator import generate
from cdp_assets.space.fql.parser import parse, parse_value
from cdp_assets.space.fql.subscription import compile_subscription, generate_subscription, matches, parse_subscription
from cdp_assets.space.fql.tree import FqlError, Path, fixed, paths

__all__ = (
    "FqlError",
    "Message",
    "Path",
    "Predicate",
    "Reader",
    "compile",
    "compile_subscription",
    "compile_value",
    "fixed",
    "generate",
    "generate_subscription",
    "matches",
    "parse",
    "parse_subscription",
    "parse_value",
    "paths",
    "text_of",
)


def compile(text: str) -> Predicate:
    """The condition as a function of a message. Raises FqlError, here for bad text, there for a condition without an answer."""
    return predicate(parse(text))


def compile_value(text: str) -> Reader:
    """The value that a text says as a function of a message; of a condition, true or false. Raises FqlError likewise."""
    return reader(parse_value(text))
