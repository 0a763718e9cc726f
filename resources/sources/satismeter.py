"""Satismeter: the responses of a project, oldest first, by cursor.

The API lists responses by the instant at which they were created. A position is that instant and, within one listing, the cursor. Each
listing begins an hour before the newest response that is known, since one may become visible after a later one; what is known already is
told by its id. The start is always said: without it the API answers with the last thirty days only.
Settings: ``project``, ``start`` (ISO 8601; default 2015). Credentials: ``api_key``.
Evidence tags: [D] vendor documentation, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import orjson

from resources.destinations import Connection
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError
from resources.sources import Page, Pulled, SourceError

_HOST: Final = "https://app.satismeter.com"
_BEGINNING: Final = "2015-01-01T00:00:00.000Z"
_OVERLAP: Final = dt.timedelta(hours=1)
SHARD: Final = "responses"


def open_reader(connection: Connection) -> SatismeterReader:
    """A reader of a project's responses. Raises :class:`resources.destinations.DestinationConfigError`."""
    return SatismeterReader(connection)


class SatismeterReader:
    """The responses of one project."""

    def __init__(self, connection: Connection) -> None:
        self._base = wire.base_url(connection, _HOST)
        self._project = str(wire.setting(connection.settings, "project"))
        self._start = str(connection.settings.get("start", _BEGINNING))
        self._key = wire.credentials(connection, "api_key")["api_key"]
        self._wire = wire.Wire(connection, wire.account_of("satismeter", connection, self._base, ()), wire.judge_status)

    def close(self) -> None:
        self._wire.close()

    def shards(self) -> list[str]:
        return [SHARD]

    def read(self, shard: str, position: str | None, limit: int) -> Page:
        """See :class:`resources.sources.Reader`. ``more`` stays true until the listing has been read to its end."""
        at: dict[str, Any] = orjson.loads(position) if position else {"newest": None, "from": self._start, "cursor": None}
        query = {"startDate": at["from"], "limit": str(limit), **({"cursor": at["cursor"]} if at["cursor"] else {})}
        url = f"{self._base}/api/v3/projects/{self._project}/responses"
        try:
            answer = wire.body_of(
                self._wire.call("GET", url, writes=False, params=query, headers={"Authorization": f"Bearer {self._key}"})
            )
        except CallFailedError as error:
            failed = f"satismeter answers {error.code}"
        else:
            failed = (
                ""
                if isinstance(answer, dict) and isinstance(answer.get("data"), list)
                else "satismeter's answer is not understood"
            )
        if failed:
            raise SourceError(failed)
        records = [Pulled(_id(item), item) if isinstance(item, dict) else Pulled("", None, str(item)) for item in answer["data"]]
        created = [str(item["created"]) for item in answer["data"] if isinstance(item, dict) and item.get("created")]
        newest = max([*created, *([at["newest"]] if at["newest"] else [])], default=None)
        cursor = (answer.get("meta") or {}).get("nextCursor")  # [M]
        start = at["from"] if cursor or newest is None else _before(newest)
        after = orjson.dumps({"newest": newest, "from": start, "cursor": cursor}).decode()
        return Page(records, after, more=bool(cursor))


def _id(item: dict[str, Any]) -> str:
    return str(item.get("id", ""))


def _before(instant: str) -> str:
    earlier = dt.datetime.fromisoformat(instant.replace("Z", "+00:00")) - _OVERLAP
    return earlier.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
