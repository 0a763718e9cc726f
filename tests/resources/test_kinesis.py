"""Kinesis: the twin as boto3 itself sees it, and the connector against the twin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from resources.destinations import Action, Connection, DestinationConfigError, Operation, Outcome, kinesis, registry
from tests.resources.conftest import Twins

PUT = Action("put", {"stream": "mqls", "key_field": "email"})


def client(twins: Twins, key: str = "sandbox") -> Any:
    return boto3.client(
        "kinesis",
        region_name="eu-central-1",
        endpoint_url=twins.base("kinesis") + "/",
        aws_access_key_id=key,
        aws_secret_access_key="sandbox-secret",
        config=botocore.config.Config(retries={"total_max_attempts": 1}, proxies={}),
    )


def operations(count: int, **payload: Any) -> list[Operation]:
    return [Operation(f"op{n}", "enter", f"lead{n}@x.org", {"score": n, **payload}, f"message{n}") for n in range(count)]


@pytest.fixture
def destination(twins: Twins) -> Iterator[kinesis.KinesisDestination]:
    with kinesis.connect(twins.connection("kinesis")) as made:
        yield made


def said(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.status, outcome.reason) for outcome in sorted(outcomes, key=lambda one: int(one.id[2:]))]


def put(twins: Twins) -> list[dict[str, Any]]:
    return [record["json"] for record in twins.records("kinesis", "mqls")]


# -- the twin, by the vendor's own client ------------------------------------------------------------------------------------


def test_what_is_put_is_read_shard_by_shard_in_order(twins: Twins) -> None:
    api = client(twins)
    records = [{"Data": json.dumps({"n": n}).encode(), "PartitionKey": f"key{n % 3}"} for n in range(9)]
    answer = api.put_records(StreamName="mqls", Records=records)
    assert answer["FailedRecordCount"] == 0
    assert len({(one["ShardId"], one["SequenceNumber"]) for one in answer["Records"]}) == 9
    read: dict[str, list[int]] = {}
    for shard in api.list_shards(StreamName="mqls")["Shards"]:
        iterator = api.get_shard_iterator(StreamName="mqls", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")[
            "ShardIterator"
        ]
        while True:
            page = api.get_records(ShardIterator=iterator, Limit=2)
            for record in page["Records"]:
                read.setdefault(record["PartitionKey"], []).append(json.loads(record["Data"])["n"])
            iterator = page["NextShardIterator"]
            if not page["MillisBehindLatest"]:
                break
    assert read == {"key0": [0, 3, 6], "key1": [1, 4, 7], "key2": [2, 5, 8]}


def test_a_consumer_goes_on_after_the_record_that_it_has(twins: Twins) -> None:
    api = client(twins)
    twins.limit("kinesis", shards=1)
    first, second = (
        api.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}])["Records"][0] for _ in range(2)
    )
    where = {"StreamName": "s", "ShardId": first["ShardId"]}
    after = api.get_shard_iterator(
        **where, ShardIteratorType="AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=first["SequenceNumber"]
    )
    found = api.get_records(ShardIterator=after["ShardIterator"])["Records"]
    assert [record["SequenceNumber"] for record in found] == [second["SequenceNumber"]]
    latest = api.get_shard_iterator(**where, ShardIteratorType="LATEST")
    assert api.get_records(ShardIterator=latest["ShardIterator"])["Records"] == []


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"StreamName": "no such stream!"}, "ResourceNotFoundException"),
        ({"Records": [{"Data": b"x", "PartitionKey": "k" * 257}]}, "ValidationException"),
        ({"Records": [{"Data": b"x" * 1_048_576, "PartitionKey": "k"}]}, "ValidationException"),
        ({"Records": [{"Data": b"x" * 1_000_000, "PartitionKey": "k"}] * 6}, "InvalidArgumentException"),
        ({"Records": [{"Data": b"x", "PartitionKey": "k"}] * 501}, "ValidationException"),
    ],
)
def test_what_is_not_allowed_is_refused_in_the_systems_own_words(twins: Twins, given: dict[str, Any], code: str) -> None:
    call = {"StreamName": "s", "Records": [{"Data": b"x", "PartitionKey": "k"}], **given}
    with pytest.raises(botocore.exceptions.ClientError) as error:
        client(twins).put_records(**call)
    assert error.value.response["Error"]["Code"] == code
    assert twins.records("kinesis") == []


def test_another_key_is_nobodys(twins: Twins) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match="UnrecognizedClientException"):
        client(twins, "stranger").list_shards(StreamName="s")


# -- the connector -----------------------------------------------------------------------------------------------------------


def test_each_message_is_one_record_with_its_message_id_under_its_key(
    twins: Twins, destination: kinesis.KinesisDestination
) -> None:
    outcomes = destination.deliver(PUT, operations(3))
    assert said(outcomes) == [("delivered", "")] * 3
    assert put(twins) == [{"email": f"lead{n}@x.org", "messageId": f"message{n}", "score": n} for n in range(3)]
    held = twins.records("kinesis", "mqls")
    assert {record["PartitionKey"] for record in held} == {f"lead{n}@x.org" for n in range(3)}
    assert {outcome.remote_id for outcome in outcomes} == {f"{record['ShardId']}:{record['SequenceNumber']}" for record in held}


def test_records_for_which_the_shard_has_no_room_are_put_again_and_no_others(
    twins: Twins, destination: kinesis.KinesisDestination
) -> None:
    twins.fault("kinesis", kind="partial_failure", rows=0.5, seed=3, times=1)
    outcomes = destination.deliver(PUT, operations(20))
    assert {outcome.status for outcome in outcomes} == {"delivered"}
    assert sorted(record["score"] for record in put(twins)) == list(range(20))
    assert len(twins.calls("kinesis")) == 2
    twins.fault("kinesis", kind="partial_failure", rows=1.0)
    assert set(said(destination.deliver(PUT, operations(2)))) == {("waiting", "ProvisionedThroughputExceededException")}


def test_a_request_is_cut_where_it_would_be_too_large(twins: Twins) -> None:
    with kinesis.connect(twins.connection("kinesis", timeout_seconds=20)) as destination:
        outcomes = destination.deliver(PUT, operations(8, text="x" * 900_000))
        assert {outcome.status for outcome in outcomes} == {"delivered"}
        assert len(twins.calls("kinesis")) == 2
        too_large = operations(2)
        too_large[1] = Operation("op1", "enter", "k", {"text": "x" * 1_100_000}, "m")
        assert said(destination.deliver(PUT, too_large)) == [("delivered", ""), ("rejected", "record_too_large")]


@pytest.mark.parametrize(
    ("fault", "status", "reason", "there"),
    [
        ({"kind": "commit_then_drop"}, "unknown", "connection_lost", 2),
        ({"kind": "timeout_before_commit", "seconds": 10}, "unknown", "no_answer", 0),
        ({"kind": "500"}, "unknown", "InternalFailure", 0),
        ({"kind": "429"}, "waiting", "ProvisionedThroughputExceededException", 0),
        ({"kind": "quota_exhausted"}, "waiting", "LimitExceededException", 0),
        ({"kind": "expired_token"}, "waiting", "config:ExpiredTokenException", 0),
    ],
)
def test_nothing_is_sent_again_that_may_be_there(
    twins: Twins, fault: dict[str, Any], status: str, reason: str, there: int
) -> None:
    twins.fault("kinesis", **fault, times=1)
    with kinesis.connect(twins.connection("kinesis", timeout_seconds=0.5)) as destination:
        assert said(destination.deliver(PUT, operations(2))) == [(status, reason)] * 2
    assert len(put(twins)) == there
    assert len(twins.calls("kinesis")) == 1


def test_a_long_key_still_has_a_shard_of_its_own(twins: Twins, destination: kinesis.KinesisDestination) -> None:
    destination.deliver(PUT, [Operation("op0", "enter", "k" * 300, {}, "m")])
    assert [(len(record["PartitionKey"]), len(record["json"]["email"])) for record in twins.records("kinesis")] == [(64, 300)]


def test_nobody_listens_means_waiting(twins: Twins) -> None:
    connection = Connection("sandbox", "elsewhere", {"timeout_seconds": 0.3}, {}, "http://127.0.0.1:9/kinesis")
    with kinesis.connect(connection) as destination:
        assert said(destination.deliver(PUT, operations(1))) == [("waiting", "not_connected")]


def test_it_appends_and_takes_nothing_back() -> None:
    found = registry.capabilities("kinesis", "put", {})
    assert (found.resend, found.retract, found.attribution) == ("append", "none", "positional")


def test_a_live_connection_needs_a_region_and_its_secrets() -> None:
    with pytest.raises(DestinationConfigError, match=r"settings\.region"):
        kinesis.connect(Connection("live", "123456789012", {}, {}))
    with pytest.raises(DestinationConfigError, match="access_key_id, secret_access_key"):
        kinesis.connect(Connection("live", "123456789012", {"region": "eu-central-1"}, {}))
