"""Rules of single values that a model cannot say: ``${ENV}`` only where it may stand, secrets out of the file, regular
expressions, cron expressions, time zones, owners."""

from __future__ import annotations

import datetime as dt
import itertools
import re
import zoneinfo
from collections.abc import Iterator
from typing import Any

from croniter import croniter

from cdp_assets.space.documents import Document, Place
from cdp_assets.space.located import did_you_mean
from cdp_assets.space.space import Problem
from resources.destinations.registry import CONNECTORS

LEAST_CRON_MINUTES = 15

_VARIABLE = re.compile(r"\$\{[A-Z][A-Z0-9_]*(?::-[^}]*)?\}")
_SECRET = re.compile(r"password|secret|token|private_key|passphrase|credential|access_key", re.IGNORECASE)
# Parts of space.yaml that name accounts, each with credentials and settings.
_ACCOUNTS = ("destinations", "pulled_sources")
_OWNER = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s]+")


def check_settings(document: Document) -> list[Problem]:
    """Problems of a document's single values."""
    problems = list(_variables(document))
    problems += _owner(document)
    problems += _schedule(document)
    if document.file == "space.yaml":
        problems += _secrets(document)
        problems += _identity(document)
        problems += _repeated(document, "consent_categories", "id")
        problems += _repeated(document, "event_filters", "name")
        problems += _destinations(document)
    if document.file.startswith("activations/"):
        problems += _dates(document)
    return problems


def _at(data: Any, *path: str) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _items(data: Any, *path: str) -> list[Any]:
    found = _at(data, *path)
    return found if isinstance(found, list) else []


# -- ${ENV} and secrets ------------------------------------------------------------------------------------------------


def _variables(document: Document) -> Iterator[Problem]:
    for path, value in document.scalars():
        if not isinstance(value, str) or "${" not in value:
            continue
        line = document.line(*path)
        if not _may_hold_variable(document.file, path):
            yield Problem(
                document.file,
                line,
                f"'{_name(path)}' holds ${{…}}, which is allowed for secrets and paths only",
                "write the value; landing, warehouse.files, warehouse.settings, an account's credentials and settings, alerts, and a hash key may hold one",
            )
        elif "${" in _VARIABLE.sub("", value):
            yield Problem(
                document.file,
                line,
                f"'{_name(path)}' holds ${{…}} in a form that is not read",
                "write ${NAME} or ${NAME:-default}",
            )


def _may_hold_variable(file: str, path: Place) -> bool:
    if file.startswith("transformations/"):
        return path == ("hash", "key")
    if file != "space.yaml":
        return False
    if path[0] in _ACCOUNTS:
        return len(path) > 3 and path[2] in ("credentials", "settings")
    if path[0] == "alerts":
        return path == ("alerts", "webhook") or path[-1] in ("username", "password")
    return path == ("landing",) or path[:2] in (("warehouse", "files"), ("warehouse", "settings"))


def _name(path: Place) -> str:
    return ".".join(str(part) for part in path)


def _secrets(document: Document) -> Iterator[Problem]:
    for path, value in document.scalars():
        secret = path[0] in _ACCOUNTS and len(path) > 3 and path[2] == "credentials"
        setting = path[:2] == ("warehouse", "settings") or (path[0] in _ACCOUNTS and len(path) > 3 and path[2] == "settings")
        if path in (("alerts", "webhook"), ("alerts", "email", "password")):
            secret = True
        if setting:
            secret = bool(_SECRET.search(str(path[-1])))
        if secret and isinstance(value, str) and value and "${" not in value:
            yield Problem(
                document.file,
                document.line(*path),
                f"secret '{_name(path)}' is written in the file",
                "keep it in an environment variable and write ${NAME}",
                "warning",
            )


# -- owners and schedules ------------------------------------------------------------------------------------------------


def _owner(document: Document) -> Iterator[Problem]:
    owner = document.data.get("owner")
    if isinstance(owner, str) and "${" not in owner and not _OWNER.fullmatch(owner):
        yield Problem(document.file, document.line("owner"), "'owner' is no owner", "write an e-mail address or team:NAME")


def _schedule(document: Document) -> Iterator[Problem]:
    zone = _at(document.data, "schedule", "timezone")
    if isinstance(zone, str) and not _is_zone(zone):
        yield Problem(
            document.file, document.line("schedule", "timezone"), "unknown time zone", "write an IANA name, e.g. Europe/Prague"
        )
    cron = _at(document.data, "schedule", "cron")
    if not isinstance(cron, str):
        return
    line = document.line("schedule", "cron")
    if len(cron.split()) != 5 or not croniter.is_valid(cron):
        yield Problem(document.file, line, "'cron' is not a cron expression", "write five fields: minute hour day month weekday")
        return
    times = _first_times(cron, dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
    if not times:
        yield Problem(document.file, line, "this cron expression never fires", "correct day and month")
    elif any(later - earlier < dt.timedelta(minutes=LEAST_CRON_MINUTES) for earlier, later in itertools.pairwise(times)):
        yield Problem(
            document.file,
            line,
            f"this cron expression fires more often than every {LEAST_CRON_MINUTES} minutes",
            "fire less often",
        )


def _first_times(cron: str, start: dt.datetime) -> list[dt.datetime]:
    """The first hundred times: enough to see the two nearest ones of any five-field expression's day."""
    iterator = croniter(cron, start)
    try:
        return [iterator.get_next(dt.datetime) for _ in range(100)]
    except ValueError:  # croniter's own error for dates that never come
        return []


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


# -- space.yaml ----------------------------------------------------------------------------------------------------------


def _identity(document: Document) -> Iterator[Problem]:
    for index, blocked in enumerate(_items(document.data, "identity", "blocked")):
        pattern = _at(blocked, "regex")
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except re.error as error:
            line = document.line("identity", "blocked", index, "regex")
            yield Problem(document.file, line, f"this regular expression does not compile: {error.msg}", "correct it")
    yield from _repeated(document, "identity", "identifiers", "type")
    yield from _repeated(document, "identity", "identifiers", "priority")


def _repeated(document: Document, *path: str) -> Iterator[Problem]:
    """Items of a list that share a value which should tell them apart."""
    *place, name = path
    first: dict[Any, int] = {}
    for index, item in enumerate(_items(document.data, *place)):
        value = _at(item, name)
        if value is None or isinstance(value, dict | list):
            continue
        line = document.line(*place, index, name)
        if value in first:
            yield Problem(
                document.file, line, f"{name} '{value}' is used twice, first on line {first[value]}", "keep one, or change it"
            )
        first.setdefault(value, line)


def _destinations(document: Document) -> Iterator[Problem]:
    destinations = _at(document.data, "destinations")
    for name, settings in destinations.items() if isinstance(destinations, dict) else ():
        kind = _at(settings, "type")
        if isinstance(kind, str) and kind not in CONNECTORS:
            line = document.line("destinations", name, "type")
            yield Problem(document.file, line, f"unknown destination type '{kind}'", did_you_mean(kind, CONNECTORS))


# -- activations -----------------------------------------------------------------------------------------------------------


def _dates(document: Document) -> Iterator[Problem]:
    """Mappings and settings are JSON, which has no dates."""
    for path, value in document.scalars():
        if path[0] in ("mapping", "settings") and isinstance(value, dt.date):
            yield Problem(
                document.file, document.line(*path), f"'{_name(path)}' is a date, which JSON does not have", "put it in quotes"
            )
