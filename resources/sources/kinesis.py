"""Kinesis: the records of a stream, shard by shard, through boto3.

A position is a sequence number. Records that the stream has let go (retention) are gone: a position before them continues at the oldest
that is left, as Kinesis itself does.
Settings: ``stream``, ``region`` (live). Credentials: ``access_key_id``, ``secret_access_key``.
"""

from __future__ import annotations

from typing import Any

import botocore.exceptions
import orjson

from resources.destinations import Connection
from resources.destinations import http as wire
from resources.destinations.kinesis import client_of
from resources.sources import Page, Pulled, SourceError

_MOST = 10_000  # of one GetRecords [D]


def open_reader(connection: Connection) -> KinesisReader:
    """A reader of ``settings.stream``. Raises :class:`resources.destinations.DestinationConfigError`."""
    return KinesisReader(connection)


class KinesisReader:
    """One stream."""

    def __init__(self, connection: Connection) -> None:
        self._stream = str(wire.setting(connection.settings, "stream"))
        self._client = client_of(connection)

    def close(self) -> None:
        self._client.close()

    def shards(self) -> list[str]:
        shards: list[str] = []
        asked: dict[str, Any] = {"StreamName": self._stream}
        while asked:
            answer = self._call("list_shards", **asked)
            shards += [shard["ShardId"] for shard in answer["Shards"]]
            asked = {"NextToken": answer["NextToken"]} if answer.get("NextToken") else {}
        return sorted(shards)

    def read(self, shard: str, position: str | None, limit: int) -> Page:
        start: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if position is not None:
            start = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": position}
        iterator = self._call("get_shard_iterator", StreamName=self._stream, ShardId=shard, **start)["ShardIterator"]
        records: list[Pulled] = []
        # An answer may be empty although records follow.
        while iterator and not records:
            answer = self._call("get_records", ShardIterator=iterator, Limit=min(limit, _MOST))
            records = [_pulled(record) for record in answer["Records"]]
            behind = answer.get("MillisBehindLatest", 0) > 0
            iterator = answer.get("NextShardIterator") if behind else None
        return Page(records, records[-1].position if records else position or "", bool(iterator))

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Raises :class:`SourceError`; botocore's own errors name the URL, and so go no further."""
        try:
            return getattr(self._client, name)(**arguments)
        except botocore.exceptions.ClientError as error:
            said = f"kinesis answers {error.response.get('Error', {}).get('Code', 'NO_CODE')}"
        except botocore.exceptions.BotoCoreError as error:
            said = f"kinesis does not answer: {type(error).__name__}"
        raise SourceError(said)


def _pulled(record: dict[str, Any]) -> Pulled:
    try:
        content = orjson.loads(record["Data"])
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict):
        return Pulled(record["SequenceNumber"], content)
    return Pulled(record["SequenceNumber"], None, record["Data"].decode(errors="replace"))
