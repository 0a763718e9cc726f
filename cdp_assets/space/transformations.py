"""``transformations/KEY.yaml``: what a message becomes before it is stored, or before it goes to one destination.

Fields, limits and scopes are those of Segment's Transformations. What they do is in :mod:`.transforming`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from cdp_assets.space import fql
from cdp_assets.space.base import Model
from cdp_assets.space.models.common import FqlCondition, Slug

MAX_DEPTH: Final = 4
MAX_VALUES: Final = 10
_ROOTS: Final = ("properties", "traits", "context")
_KEY_OF_ENVIRONMENT: Final = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def field_keys(path: str) -> tuple[str, ...]:
    """The keys of a path that a transformation may change. Raises ValueError (``cause; remedy``) for any other path."""
    node = fql.parse_value(path)
    if not isinstance(node, fql.Path):
        raise ValueError("this is no path; write e.g. properties.price")
    keys = node.keys
    if keys[0] not in _ROOTS or len(keys) < 2:
        raise ValueError(f"only fields below {', '.join(_ROOTS)} can be changed; write e.g. properties.price")
    if len(keys) > MAX_DEPTH:
        raise ValueError(f"the path has more than {MAX_DEPTH} levels; change a field further up")
    if any(key.isdecimal() for key in keys):
        raise ValueError("elements of lists cannot be changed; name the list")
    if keys[:2] == ("context", "consent"):
        raise ValueError("the consent of a message cannot be changed; leave context.consent as the source sent it")
    return keys


def _is_field(path: str) -> str:
    field_keys(path)
    return path


def _is_value(text: str) -> str:
    fql.compile_value(text)
    return text


def _is_key(text: str) -> str:
    if not _KEY_OF_ENVIRONMENT.fullmatch(text):
        raise ValueError("a hash key comes from the environment only; write ${NAME}")
    return text


FieldPath = Annotated[str, AfterValidator(_is_field)]
FqlValue = Annotated[str, AfterValidator(_is_value)]
KeyVariable = Annotated[str, AfterValidator(_is_key)]


class SetValue(Model):
    """Gives fields one value, whether or not they were there."""

    paths: tuple[FieldPath, ...] = Field(min_length=1, max_length=MAX_VALUES, description="Fields, e.g. properties.currency.")
    value: str | bool | int | float | None = Field(description="Their value.")


class FqlDefined(Model):
    """Gives one field the value of an FQL expression; one that is null sets nothing."""

    fql: FqlValue = Field(description="An expression, e.g. lowercase(properties.email).")
    property: FieldPath = Field(description="The field, e.g. properties.email_lower.")


class Hash(Model):
    """Replaces values by their hash, keyed (HMAC) if there is a key."""

    algorithm: Literal["sha256", "sha512", "sha1", "md5"] = "sha256"
    key: KeyVariable | None = Field(None, description="Secret from the environment: ${NAME}.")
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    paths: tuple[FieldPath, ...] = Field(
        min_length=1,
        description="Fields, named as after renames. Of a value that is no text its JSON is hashed; a path that ends early, in a "
        "text or a list, has that hashed.",
    )

    @property
    def variable(self) -> str | None:
        """Name of the environment variable that holds the key."""
        match = _KEY_OF_ENVIRONMENT.fullmatch(self.key or "")
        return match[1] if match else None


class Transformation(Model):
    """``transformations/KEY.yaml``: changes or drops the messages that meet a condition; not retroactive.

    Conditions judge the message as it came. Of several transformations that it meets, each goes on from what the one before it, by
    key, left.
    """

    key: Slug
    name: str
    description: str = ""
    enabled: bool = True
    sources: tuple[Slug, ...] = Field((), description="Sources whose messages it concerns; default: all messages.")
    destination: Slug | None = Field(
        None, description="The destination that gets the changed message. Default: the message is changed before it is stored."
    )
    if_: FqlCondition = Field(alias="if", description="FQL: which messages, e.g. type = 'track' and event = 'Order Completed'.")
    drop: bool = Field(False, description="Withhold the message. Goes alone.")
    new_event_name: str | None = Field(None, min_length=1, description="New name of a track event.")
    rename: dict[FieldPath, FieldPath] = Field(default_factory=dict, description="Field -> its new path, below the same root.")
    set: tuple[SetValue, ...] = Field((), max_length=MAX_VALUES, description="Fields that get a fixed value.")
    fql_defined: FqlDefined | None = Field(None, description="A field computed by FQL; not together with rename or set.")
    allow: tuple[FieldPath, ...] = Field(
        (),
        description="Keep only these fields of properties, or of traits, named as after renames; what is not named there goes.",
    )
    hash: Hash | None = None

    @model_validator(mode="after")
    def _actions(self) -> Transformation:
        actions = [self.new_event_name, self.rename, self.set, self.fql_defined, self.allow, self.hash]
        if self.drop and any(actions):
            raise ValueError("'drop' goes alone; remove the other actions, or 'drop'")
        if not self.drop and not any(actions):
            raise ValueError(
                "this transformation does nothing; give drop, new_event_name, rename, set, fql_defined, allow or hash"
            )
        if self.fql_defined and (self.rename or self.set):
            raise ValueError("'fql_defined' does not go together with 'rename' and 'set'; write two transformations")
        if any(path.startswith("context.") for path in self.allow):
            raise ValueError("'allow' keeps fields of properties and traits; leave the context whole")
        return self

    @model_validator(mode="after")
    def _renames(self) -> Transformation:
        places = [(field_keys(old), field_keys(new)) for old, new in self.rename.items()]
        if any(old[0] != new[0] for old, new in places):
            raise ValueError("a field stays below its root when it is renamed; write e.g. properties.cost: properties.price")
        if any(old[: len(new)] == new or new[: len(old)] == old for old, new in places):
            raise ValueError("a field cannot be renamed to itself, or into or out of itself; choose another name")
        if len({new for _, new in places}) < len(places):
            raise ValueError("two fields are renamed to the same one; choose another name")
        return self

    @model_validator(mode="after")
    def _event_name(self) -> Transformation:
        types = fql.fixed(fql.parse(self.if_)).get("type")
        if self.new_event_name and types is not None and "track" not in types:
            raise ValueError("'new_event_name' is for track events; make 'if' meet them, or remove it")
        return self

    @property
    def claims(self) -> frozenset[tuple[str | None, str | None]]:
        """(type, event) that ``if`` fixes. One that is not fixed is a claim of its own: "every event" is no event."""
        fixed = fql.fixed(fql.parse(self.if_))
        everything: frozenset[str | None] = frozenset({None})
        return frozenset((kind, event) for kind in fixed.get("type", everything) for event in fixed.get("event", everything))
