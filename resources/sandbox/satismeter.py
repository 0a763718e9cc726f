"""The Satismeter twin: the responses of one project, listed by the instant at which they were created, a page at a time.

The envelope of a page is not in public documents [M]; its fields are those of responses that connectors show.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.store import Store
from resources.sandbox.twin import Answer, Call, Twin, bearer

SYSTEM: Final = "satismeter"
PROJECT: Final = "sandbox-project"
RESPONSES: Final = "responses"
_MOST: Final = 100  # [M]
_DAYS_WITHOUT_START: Final = 30  # [D]


class SatismeterTwin(Twin):
    system = SYSTEM
    title = "Satismeter"
    limits = {"page": _MOST}
    routes = (("GET", "/api/v3/projects/{project}/responses", "responses"),)

    def handle(self, call: Call) -> Answer:
        if bearer(call) != CLIENT_SECRET:
            return _error(401, "Unauthorized")
        return self.dispatch(call) or _error(404, "Not Found")

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        codes = {"429": 429, "quota_exhausted": 429, "expired_token": 401}
        return _error(codes.get(kind) or int(kind), kind)

    def responses(self, call: Call) -> Answer:
        if call.params["project"] != PROJECT:
            return _error(404, "Not Found")
        # Without a start the last thirty days only, in silence [D].
        default = (call.at - dt.timedelta(days=_DAYS_WITHOUT_START)).isoformat()
        start, end = call.arg("startDate") or default, call.arg("endDate") or "9999"
        after = _cursor(call.arg("cursor") or "")
        if after is None:
            return _error(400, "cursor")
        held = sorted((str(r.fields["created"]), r.id, r.fields) for r in self.store.records(self.system, RESPONSES))
        chosen = [one for one in held if start <= one[0] < end and one[:2] > after]
        size = min(int(call.arg("limit") or _MOST), self.limit("page"))
        page = chosen[:size]
        following = base64.urlsafe_b64encode("|".join(page[-1][:2]).encode()).decode() if len(chosen) > size else None
        return Answer(200, {"data": [fields for *_, fields in page], "meta": {"nextCursor": following}})


def _cursor(text: str) -> tuple[str, str] | None:
    """(created, id) of the last response before the page; None for a cursor that is none."""
    if not text:
        return "", ""
    try:
        created, _, id = base64.urlsafe_b64decode(text).decode().partition("|")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return created, id


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"error": {"message": message}})


def create(store: Any) -> Twin:
    """The twin over a store."""
    return SatismeterTwin(store)


def answer_surveys(store: Store, responses: list[dict[str, Any]], at: dt.datetime) -> None:
    """What people answered, put where the twin finds it: (id, created, rating, feedback, user)."""
    with store.transaction():
        store.put(SYSTEM, RESPONSES, [(response["id"], response) for response in responses], at)
