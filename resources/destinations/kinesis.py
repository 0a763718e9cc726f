"""Kinesis: one record a message into a data stream, through boto3.

Nothing tells two records apart, so what got no answer stays unknown. Each record carries its ``messageId``, by which a consumer can tell
what it has seen, and its partition key is the destination key, so that the records of one key stay in one shard.
Settings of the connection: ``region``, live; ``record_bytes`` and ``request_bytes``, where the stream allows more than 1 MiB and 5 MiB.
Credentials: ``access_key_id``, ``secret_access_key``.
Settings of the action: ``stream``, ``key_field``.
Evidence tags: [D] vendor documentation, [C] read in botocore's service model or production connectors.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import boto3
import botocore.config
import botocore.exceptions
import orjson

from resources.destinations import (
    Action,
    Capabilities,
    Connection,
    Connector,
    DestinationConfigError,
    FieldRule,
    Operation,
    Outcome,
    exchanges,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError

CAPABILITIES: Final = Capabilities(
    type="kinesis",
    actions=("put",),
    batch_rows=500,  # [D]
    batch_bytes=4_000_000,  # [C] 5 MiB with the keys, as older documentation says; newer streams take more
    resend="append",
    attribution="positional",
    retract="none",
    fields={"": {"*": FieldRule()}},
    evidence="https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html",
)
_RECORD_BYTES: Final = 1_048_576
_REQUEST_BYTES: Final = 5_242_880
_LONGEST_KEY: Final = 256  # [D]
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.2

# Codes of a whole request [D][C].
_THROTTLED: Final = {
    *("ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException", "Throttling"),
    *("KMSThrottlingException", "RequestLimitExceeded"),
}
_WRONG: Final = {"InvalidArgumentException", "ValidationException", "SerializationException"}


def connect(connection: Connection) -> KinesisDestination:
    """A connector to the streams of an account and region. Raises :class:`DestinationConfigError`."""
    return KinesisDestination(connection)


def client_of(connection: Connection) -> Any:
    """boto3's client of the account and region, without retries of its own. Raises :class:`DestinationConfigError`."""
    settings = connection.settings
    region = str(settings.get("region", ""))
    if connection.mode == "live" and not region:
        raise DestinationConfigError("a live connection needs settings.region")
    base = wire.base_url(connection, f"https://kinesis.{region}.amazonaws.com")
    if connection.mode == "live":
        secrets = wire.credentials(connection, "access_key_id", "secret_access_key")
    else:
        secrets = {"access_key_id": "sandbox", "secret_access_key": "sandbox-secret"}
    timeout = float(settings.get("timeout_seconds", wire.TIMEOUT_SECONDS))
    return boto3.session.Session().client(
        "kinesis",
        region_name=region or "us-east-1",
        endpoint_url=f"{base}/",
        aws_access_key_id=secrets["access_key_id"],
        aws_secret_access_key=secrets["secret_access_key"],
        config=botocore.config.Config(
            # A request that is sent again may double its records: what to do is decided here, answer by answer.
            retries={"total_max_attempts": 1},
            connect_timeout=timeout,
            read_timeout=timeout,
            proxies=None if connection.mode == "live" else {},
        ),
    )


class KinesisDestination(Connector):
    """The streams of one account in one region."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self._record_bytes = int(connection.settings.get("record_bytes", _RECORD_BYTES))
        self._request_bytes = int(connection.settings.get("request_bytes", _REQUEST_BYTES))
        self._client = client_of(connection)

    def close(self) -> None:
        self._client.close()

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Put one batch. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        stream, key_field = str(wire.setting(action.settings, "stream")), str(wire.setting(action.settings, "key_field"))
        outcomes, records = [], {}
        for operation in operations:
            record = _record(operation, key_field)
            if len(record["Data"]) + len(record["PartitionKey"].encode()) > self._record_bytes:
                outcomes.append(Outcome(operation.id, "rejected", "record_too_large"))
            else:
                records[operation.id] = record
        given = [operation for operation in operations if operation.id in records]
        for batch in self._batches(given, records):
            outcomes += self._put(stream, batch, records)
        return outcomes

    def _batches(self, operations: Sequence[Operation], records: Mapping[str, dict[str, Any]]) -> list[list[Operation]]:
        batches: list[list[Operation]] = []
        room = 0
        for operation in operations:
            size = len(records[operation.id]["Data"]) + len(records[operation.id]["PartitionKey"].encode())
            if not batches or size > room or len(batches[-1]) >= CAPABILITIES.batch_rows:
                batches.append([])
                room = self._request_bytes
            batches[-1].append(operation)
            room -= size
        return batches

    def _put(self, stream: str, operations: Sequence[Operation], records: Mapping[str, dict[str, Any]]) -> list[Outcome]:
        """Put records; those that the shard had no room for are put again, a few times, after a pause. Order is kept by key."""
        outcomes: list[Outcome] = []
        left = list(operations)
        for number in range(_TRIES):
            if number:
                time.sleep(_PAUSE_SECONDS * 2**number)
            try:
                answer = self._call(stream, [records[operation.id] for operation in left])
            except CallFailedError as error:
                if error.status == "rejected" and len(left) > 1:
                    half = len(left) // 2
                    return outcomes + self._put(stream, left[:half], records) + self._put(stream, left[half:], records)
                return outcomes + wire.failed(left, error)
            results = answer.get("Records", [])
            if len(results) != len(left):
                unclear = CallFailedError("unknown", "answer_not_understood", maybe_applied=True)
                return outcomes + wire.failed(left, unclear)
            again = []
            for operation, result in zip(left, results, strict=True):
                if result.get("SequenceNumber"):
                    place = f"{result.get('ShardId', '')}:{result['SequenceNumber']}"
                    outcomes.append(Outcome(operation.id, "delivered", remote_id=place))
                else:
                    again.append((operation, str(result.get("ErrorCode", "NO_CODE"))))
            if not again:
                return outcomes
            left, codes = [operation for operation, _ in again], [code for _, code in again]
        waiting = (CallFailedError("waiting", code).outcome(operation) for operation, code in zip(left, codes, strict=True))
        return [*outcomes, *waiting]

    def _call(self, stream: str, records: list[dict[str, Any]]) -> dict[str, Any]:
        """One PutRecords. Raises :class:`CallFailedError`; botocore's own errors name the URL, and so go no further."""
        failure: CallFailedError
        heard: dict[str, Any] | None = None
        try:
            heard = self._client.put_records(StreamName=stream, Records=records)
            return heard
        except botocore.exceptions.ClientError as error:
            failure = _failure(error)
        except (botocore.exceptions.EndpointConnectionError, botocore.exceptions.ConnectTimeoutError):
            failure = CallFailedError("waiting", "not_connected")
        except botocore.exceptions.ReadTimeoutError:
            failure = CallFailedError("unknown", "no_answer", maybe_applied=True)
        except botocore.exceptions.BotoCoreError:
            failure = CallFailedError("unknown", "connection_lost", maybe_applied=True)
        finally:
            exchanges.count_call()
            if exchanges.watched():
                exchanges.saw(_exchange(stream, records, heard))
        raise failure


def _exchange(stream: str, records: list[dict[str, Any]], heard: dict[str, Any] | None) -> exchanges.Exchange:
    """The call as a person reads it; boto3 signs it and writes the records' data in base64."""
    body = {"StreamName": stream, "Records": [{**record, "Data": orjson.loads(record["Data"])} for record in records]}
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Kinesis_20131202.PutRecords"}
    status = None if heard is None else heard["ResponseMetadata"]["HTTPStatusCode"]
    answer = None if heard is None else {name: value for name, value in heard.items() if name != "ResponseMetadata"}
    return exchanges.Exchange("POST", "/", (), headers, body, status, answer)


def _failure(error: botocore.exceptions.ClientError) -> CallFailedError:
    code = str(error.response.get("Error", {}).get("Code", "NO_CODE"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLED:
        return CallFailedError("waiting", code)
    if status >= 500:
        return CallFailedError("unknown", code, maybe_applied=True)
    if code in _WRONG:
        return CallFailedError("rejected", code)
    # No such stream, no permission, a key that expired: somebody has to look.
    return CallFailedError("waiting", f"config:{code}", wire.now() + wire.AFTER_A_LOOK)


def _record(operation: Operation, key_field: str) -> dict[str, Any]:
    # An event keeps the id that its source gave it, if the mapping says it.
    said = {"messageId": operation.message_id, **operation.payload, key_field: operation.key}
    key = operation.key if len(operation.key) <= _LONGEST_KEY else hashlib.sha256(operation.key.encode()).hexdigest()
    return {"Data": orjson.dumps(said), "PartitionKey": key}
