"""The Kinesis twin: PutRecords into streams, and reading them shard by shard.

A stream of any legal name exists, with as many shards as the limit ``shards`` says. A record goes to the shard of its partition key's MD5,
and sequence numbers grow. Nothing tells two records apart: what is put twice is there twice.
The signature is not computed again; its access key must be the twins' own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from resources.sandbox import CLIENT_ID
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

_MOST: Final = 500  # [D]
_RECORD_BYTES: Final = 1_048_576  # of data and partition key, unless the stream allows more [C]
_REQUEST_BYTES: Final = 5_242_880  # [C]
_STREAM: Final = re.compile(r"^[a-zA-Z0-9_.-]{1,128}$")
_TYPE: Final = {"content-type": "application/x-amz-json-1.1"}
_THROTTLED: Final = "ProvisionedThroughputExceededException"


class KinesisTwin(Twin):
    system = "kinesis"
    title = "Kinesis"
    limits = {"shards": 2, "records_per_second": 100_000}
    routes = ()

    def handle(self, call: Call) -> Answer:
        if f"Credential={CLIENT_ID}/" not in call.headers.get("authorization", ""):
            return _error("UnrecognizedClientException", "The security token included in the request is invalid.")
        target = call.headers.get("x-amz-target", "").removeprefix("Kinesis_20131202.")
        handlers = {
            "PutRecords": self._put_records,
            "ListShards": self._list_shards,
            "GetShardIterator": self._iterator,
            "GetRecords": self._get_records,
        }
        if call.method != "POST" or target not in handlers:
            return _error("UnknownOperationException", "")
        try:
            body = call.json()
        except MalformedError:
            return _error("SerializationException", "")
        stream = body.get("StreamName", "")
        if target != "GetRecords" and not _STREAM.match(str(stream)):
            return _error("ResourceNotFoundException", f"Stream {stream} not found.")
        return handlers[target](call, body)

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        match kind:
            case "429":
                return _error(_THROTTLED, "Rate exceeded")
            case "quota_exhausted":
                return _error("LimitExceededException", "Rate exceeded")
            case "expired_token":
                return _error("ExpiredTokenException", "The security token included in the request is expired")
        return _error("InternalFailure" if kind == "500" else "ServiceUnavailable", "", int(kind))

    # -- writing -----------------------------------------------------------------------------------------------------

    def _put_records(self, call: Call, body: dict[str, Any]) -> Answer:
        records = body.get("Records")
        if not isinstance(records, list) or not 1 <= len(records) <= _MOST:
            return _error("ValidationException", "1 to 500 records")
        decoded, size = [], 0
        for record in records:
            key = record.get("PartitionKey")
            try:
                data = base64.b64decode(record.get("Data", ""), validate=True)
            except (binascii.Error, TypeError):
                return _error("SerializationException", "")
            length = len(data) + len(str(key).encode())
            if not isinstance(key, str) or not 1 <= len(key) <= 256 or length > _RECORD_BYTES:
                return _error("ValidationException", "a record is not valid")
            size += length
            decoded.append((key, data))
        if size > _REQUEST_BYTES:
            return _error("InvalidArgumentException", "Records size exceeds 5 MB limit")
        results, failed = [], 0
        room = self.limit("records_per_second")
        for key, data in decoded:
            used = self.store.count(self.system, f"second {call.at:%Y-%m-%dT%H:%M:%S}")
            if used > room or call.row_fails({"key": key, "data": data.decode("utf-8", "replace")}):
                failed += 1
                results.append({"ErrorCode": _THROTTLED, "ErrorMessage": "Rate exceeded for shard"})
            else:
                results.append(self._keep(call, str(body["StreamName"]), key, data))
        return Answer(200, {"FailedRecordCount": failed, "Records": results, "EncryptionType": "NONE"}, _TYPE)

    def _keep(self, call: Call, stream: str, key: str, data: bytes) -> dict[str, Any]:
        sequence = f"{49_600_000_000_000_000_000_000_000_000_000 + self.store.count(self.system, 'sequence')}"
        shard = self._shard(key)
        try:
            said = orjson.loads(data)
        except orjson.JSONDecodeError:
            said = None
        fields = {
            "ShardId": shard,
            "PartitionKey": key,
            "SequenceNumber": sequence,
            "Data": base64.b64encode(data).decode(),
            "At": call.at.timestamp(),
            **({"json": said} if said is not None else {}),
        }
        self.store.put(self.system, stream, [(sequence, fields)], call.at)
        return {"SequenceNumber": sequence, "ShardId": shard}

    def _shard(self, key: str) -> str:
        """The shard whose range holds the key's MD5, the ranges being equal."""
        place = int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) * self.limit("shards") >> 128
        return f"shardId-{place:012}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def _list_shards(self, call: Call, body: dict[str, Any]) -> Answer:
        shards = [{"ShardId": f"shardId-{n:012}"} for n in range(self.limit("shards"))]
        return Answer(200, {"Shards": shards}, _TYPE)

    def _iterator(self, call: Call, body: dict[str, Any]) -> Answer:
        kind, start = body.get("ShardIteratorType"), str(body.get("StartingSequenceNumber", ""))
        if kind == "TRIM_HORIZON":
            after = ""
        elif kind == "LATEST":
            after = str(49_600_000_000_000_000_000_000_000_000_000 + self.store.count(self.system, "sequence", 0))
        elif kind == "AFTER_SEQUENCE_NUMBER" and start:
            after = start
        elif kind == "AT_SEQUENCE_NUMBER" and start:
            after = str(int(start) - 1)
        else:
            return _error("InvalidArgumentException", "ShardIteratorType")
        return Answer(200, {"ShardIterator": _token(str(body["StreamName"]), str(body.get("ShardId")), after)}, _TYPE)

    def _get_records(self, call: Call, body: dict[str, Any]) -> Answer:
        try:
            stream, shard, after = orjson.loads(base64.b64decode(body.get("ShardIterator", "")))
        except (binascii.Error, orjson.JSONDecodeError, ValueError):
            return _error("InvalidArgumentException", "ShardIterator")
        limit = int(body.get("Limit", 10_000))
        held = [r for r in self.store.records(self.system, stream) if r.fields["ShardId"] == shard and r.id > after]
        given = held[:limit]
        records = [
            {
                "SequenceNumber": record.id,
                "PartitionKey": record.fields["PartitionKey"],
                "Data": record.fields["Data"],
                "ApproximateArrivalTimestamp": record.fields["At"],
            }
            for record in given
        ]
        last = given[-1].id if given else after
        behind = 0 if len(given) == len(held) else 1000
        return Answer(
            200, {"Records": records, "NextShardIterator": _token(stream, shard, last), "MillisBehindLatest": behind}, _TYPE
        )


def _token(stream: str, shard: str, after: str) -> str:
    return base64.b64encode(orjson.dumps([stream, shard, after])).decode()


def _error(code: str, message: str, status: int = 400) -> Answer:
    return Answer(status, {"__type": code, "message": message}, _TYPE)


def create(store: Any) -> Twin:
    """The twin over a store."""
    return KinesisTwin(store)
