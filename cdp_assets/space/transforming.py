"""What transformations do to a message document: pure functions, for every room that meets messages.

A message is Segment's JSON as a mapping. It is never changed itself; what changes is copied along the way.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cdp_assets.space import fql
from cdp_assets.space.fql import FqlError, Message
from cdp_assets.space.transformations import Hash, Transformation, field_keys

DROPPED: Final = "transformation_dropped"
FQL_INVALID: Final = "fql_invalid"

Keys = tuple[str, ...]
Changes = dict[str, Any]
_ABSENT: Final = object()


class Withheld(NamedTuple):
    """Why a message does not go on: a code, and a detail that names the transformation and no value."""

    reason: str
    detail: str


class TransformationError(Exception):
    """A transformation cannot run at all: its hash key is not in the environment."""


class Judge:
    """A condition of a configuration on messages. Bad text does not raise here: nothing then has an answer, so all is withheld."""

    def __init__(self, text: str) -> None:
        self._predicate: fql.Predicate | None = None
        self.fixed: Mapping[str, frozenset[str]] = {}
        self.fields: frozenset[str] = frozenset()
        try:
            condition = fql.parse(text)
        except FqlError as error:
            self._error = error
        else:
            self.fixed = fql.fixed(condition)
            self.fields = frozenset(keys[0] for keys in fql.paths(condition))
            self._predicate = fql.compile(text)

    def __call__(self, message: Message) -> bool:
        """Whether the message meets the condition. Raises FqlError where that has no answer."""
        if self._predicate is None:
            raise self._error
        for field, texts in self.fixed.items():
            value = message.get(field)
            if not isinstance(value, str) or value not in texts:
                return False
        return self._predicate(message)


class Transformer:
    """One transformation, ready to run. Raises TransformationError when its hash key is not in ``environment``."""

    def __init__(self, key: str, transformation: Transformation, environment: Mapping[str, str]) -> None:
        self.key = key
        self.sources = frozenset(transformation.sources)
        self.drops = transformation.drop
        self.judge = Judge(transformation.if_)
        self._steps = tuple(_steps(key, transformation, environment))
        # What it reads or changes: its condition's fields and those of its actions.
        self.fields = self.judge.fields | _touched(transformation)

    def act(self, message: Message, changes: Changes) -> None:
        """Add to ``changes`` (top-level field -> new value) what the transformation makes of the message. Raises FqlError."""
        for step in self._steps:
            step(message, changes)


def transformers(
    transformations: Mapping[str, Transformation], destination: str | None, environment: Mapping[str, str] | None = None
) -> tuple[Transformer, ...]:
    """The enabled transformations of one destination, by key; None: those of messages before they are stored."""
    variables = os.environ if environment is None else environment
    chosen = {key: item for key, item in transformations.items() if item.enabled and item.destination == destination}
    return tuple(Transformer(key, item, variables) for key, item in sorted(chosen.items()))


def transform(steps: Sequence[Transformer], source: str | None, message: Message) -> Changes | Withheld:
    """What a source's message becomes: new values of top-level fields (none: it stays as it is), or why it does not go on."""
    changes: Changes = {}
    met: list[Transformer] = []
    for step in steps:
        try:
            if (not step.sources or source in step.sources) and step.judge(message):
                met.append(step)
        except FqlError as error:
            return Withheld(FQL_INVALID, f"transformation {step.key}: {error.cause}")
    for step in met:
        if step.drops:
            return Withheld(DROPPED, f"transformation {step.key}")
    for step in met:
        try:
            step.act(message, changes)
        except FqlError as error:
            return Withheld(FQL_INVALID, f"transformation {step.key}: {error.cause}")
    return changes


def for_destination(
    transformations: Mapping[str, Transformation], destination: str, environment: Mapping[str, str] | None = None
) -> Callable[[Message, str | None], dict[str, Any] | Withheld]:
    """What a destination gets of a message, given it and the key of its source, after the destination's own filters.

    Raises TransformationError when a hash key is not in the environment.
    """
    steps = transformers(transformations, destination, environment)

    def transformed(message: Message, source: str | None = None) -> dict[str, Any] | Withheld:
        changes = transform(steps, source, message)
        return changes if isinstance(changes, Withheld) else {**message, **changes}

    return transformed


# -- actions -------------------------------------------------------------------------------------------------------------

_Step = Callable[[Message, Changes], None]


def _touched(transformation: Transformation) -> frozenset[str]:
    paths = [*transformation.rename, *transformation.allow, *(path for item in transformation.set for path in item.paths)]
    fields = {"type", "event"}
    if transformation.fql_defined:
        paths.append(transformation.fql_defined.property)
        fields |= {keys[0] for keys in fql.paths(fql.parse_value(transformation.fql_defined.fql))}
    if transformation.hash:
        paths += transformation.hash.paths
    return frozenset(fields | {field_keys(path)[0] for path in paths})


def _steps(key: str, transformation: Transformation, environment: Mapping[str, str]) -> Iterable[_Step]:
    if transformation.new_event_name:
        yield functools.partial(_name_event, transformation.new_event_name)
    if transformation.rename:
        yield functools.partial(_rename, [(field_keys(old), field_keys(new)) for old, new in transformation.rename.items()])
    for item in transformation.set:
        yield functools.partial(_set, [field_keys(path) for path in item.paths], item.value)
    if transformation.fql_defined:
        defined = transformation.fql_defined
        yield functools.partial(_define, field_keys(defined.property), fql.compile_value(defined.fql))
    if transformation.allow:
        yield functools.partial(_allow, _tree(map(field_keys, transformation.allow)))
    if transformation.hash:
        yield functools.partial(
            _hash, [field_keys(path) for path in transformation.hash.paths], _hasher(key, transformation.hash, environment)
        )


def _current(message: Message, changes: Changes, field: str) -> Any:
    return changes[field] if field in changes else message.get(field)


def _change(message: Message, changes: Changes, keys: Keys, change: Callable[[Any], Any], *, create: bool = False) -> None:
    """Apply ``change`` to the value at ``keys`` (_ABSENT: none is there), on copies. _ABSENT as its answer takes the key away."""
    root = _current(message, changes, keys[0])
    changed = _changed(root, keys[1:], change, create)
    if changed is not root:
        changes[keys[0]] = changed


def _changed(value: Any, keys: Keys, change: Callable[[Any], Any], create: bool) -> Any:
    if value is None and create:
        value = {}
    if not isinstance(value, dict):
        return value
    key, *below = keys
    old = value.get(key, _ABSENT)
    if below:
        new = _changed(None if old is _ABSENT else old, tuple(below), change, create)
        new = _ABSENT if new is None and old is _ABSENT else new
    else:
        new = change(old)
    if new is old:
        return value
    copy = {**value, key: new}
    if new is _ABSENT:
        del copy[key]
    return copy


def _name_event(name: str, message: Message, changes: Changes) -> None:
    if message.get("type") == "track":
        changes["event"] = name


def _rename(places: Sequence[tuple[Keys, Keys]], message: Message, changes: Changes) -> None:
    """All fields are taken out before any is put back, so that two can change places."""
    taken: dict[Keys, Any] = {}
    for old, new in places:

        def take(value: Any, new: Keys = new) -> Any:
            if value is not _ABSENT:
                taken[new] = value
            return _ABSENT

        _change(message, changes, old, take)
    for new, value in taken.items():
        _change(message, changes, new, functools.partial(_constant, value), create=True)


def _constant(value: Any, _: Any) -> Any:
    return value


def _set(paths: Sequence[Keys], value: Any, message: Message, changes: Changes) -> None:
    for keys in paths:
        _change(message, changes, keys, functools.partial(_constant, value), create=True)


def _define(keys: Keys, read: fql.Reader, message: Message, changes: Changes) -> None:
    value = read(message)
    if value is not None:
        _set([keys], value, message, changes)


def _tree(paths: Iterable[Keys]) -> dict[str, Any]:
    """Paths as nested mappings; an empty one keeps everything below."""
    tree: dict[str, Any] = {}
    for keys in sorted(paths, key=len, reverse=True):
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
        branch[keys[-1]] = {}
    return tree


def _allow(tree: Mapping[str, Any], message: Message, changes: Changes) -> None:
    for root, branch in tree.items():
        value = _current(message, changes, root)
        if isinstance(value, dict):
            changes[root] = _only(value, branch)


def _only(value: dict[str, Any], branch: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if key in branch and not branch[key]:
            kept[key] = item
        elif key in branch and isinstance(item, dict):
            kept[key] = _only(item, branch[key])
    return kept


def _hash(paths: Sequence[Keys], hashed: Callable[[Any], Any], message: Message, changes: Changes) -> None:
    for keys in paths:
        _change(message, changes, _reached(message, changes, keys), hashed)


def _reached(message: Message, changes: Changes, keys: Keys) -> Keys:
    """The path as far as it leads: where a text or a list stands in the way, that is what must not go out as it is."""
    value = _current(message, changes, keys[0])
    for depth, key in enumerate(keys[1:], start=2):
        value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            return keys[:depth] if value is not None else keys
    return keys


def _hasher(key: str, settings: Hash, environment: Mapping[str, str]) -> Callable[[Any], Any]:
    secret = environment.get(settings.variable) if settings.variable else None
    if settings.key and not secret:
        raise TransformationError(f"transformation {key}: environment variable {settings.variable} is not set")

    def hashed(value: Any) -> Any:
        if value is _ABSENT or value is None:
            return value
        content = str(fql.text_of(value)).encode("utf-8", "surrogatepass")
        digest = (
            hmac.digest(secret.encode(), content, settings.algorithm)
            if secret
            else hashlib.new(settings.algorithm, content, usedforsecurity=False).digest()
        )
        return _encoded(digest, settings.encoding)

    return hashed


def _encoded(digest: bytes, encoding: str) -> str:
    if encoding == "hex":
        return digest.hex()
    return (base64.b64encode if encoding == "base64" else base64.urlsafe_b64encode)(digest).decode()
