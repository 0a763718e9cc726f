"""The Kinesis twin beside moto's server, an independent one: the same calls of boto3 to both, and the connector against moto."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest
from moto.server import ThreadedMotoServer

from resources.destinations import Action, Connection, Operation, kinesis
from tests.resources.conftest import Twins

STREAM = "mqls"
SHARDS = 5
Read = dict[str, list[tuple[str, bytes]]]


@pytest.fixture(scope="module")
def _moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would write a line for each call
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto(_moto: str) -> Iterator[str]:
    """The server with one empty stream."""
    api = client(_moto)
    api.create_stream(StreamName=STREAM, ShardCount=SHARDS)
    yield _moto
    api.delete_stream(StreamName=STREAM)


def client(url: str) -> Any:
    return boto3.client(
        "kinesis",
        region_name="eu-central-1",
        endpoint_url=url,
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox-secret",
        config=botocore.config.Config(retries={"total_max_attempts": 1}, proxies={}),
    )


@pytest.fixture
def both(twins: Twins, moto: str) -> tuple[Any, Any]:
    """A client of the twin and one of moto, each with one empty stream of five shards."""
    twins.limit("kinesis", shards=SHARDS)
    return client(twins.base("kinesis") + "/"), client(moto)


def records(count: int) -> list[dict[str, Any]]:
    return [{"Data": f"record {n}".encode(), "PartitionKey": f"lead{n * 7 % 40}@example.com"} for n in range(count)]


def read(api: Any, limit: int, **start: str) -> Read:
    """What a consumer reads, shard by shard, in pages."""
    found: Read = {}
    for shard in api.list_shards(StreamName=STREAM)["Shards"]:
        where = {"StreamName": STREAM, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON", **start}
        iterator = api.get_shard_iterator(**where)["ShardIterator"]
        found[shard["ShardId"]] = held = []
        while page := api.get_records(ShardIterator=iterator, Limit=limit):
            held += [(record["PartitionKey"], record["Data"]) for record in page["Records"]]
            iterator = page["NextShardIterator"]
            if not page["Records"]:
                break
    return found


def test_records_lie_in_the_same_shards_and_are_read_in_the_same_order(both: tuple[Any, Any]) -> None:
    answers, found = [], []
    for api in both:
        parts = [api.put_records(StreamName=STREAM, Records=part) for part in (records(300), records(7))]
        answers.append([(part["FailedRecordCount"], [record["ShardId"] for record in part["Records"]]) for part in parts])
        found.append(read(api, limit=11))
    assert answers[0] == answers[1]
    assert found[0] == found[1]
    assert (len(found[0]), sum(map(len, found[0].values()))) == (SHARDS, 307)
    assert all(found[0].values()), "no shard is empty"


@pytest.mark.parametrize("kind", ["AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER", "LATEST"])
def test_a_consumer_goes_on_from_the_same_place(both: tuple[Any, Any], kind: str) -> None:
    found = []
    for api in both:
        put = [api.put_records(StreamName=STREAM, Records=[record])["Records"][0] for record in records(30)]
        shard = put[0]["ShardId"]
        own = [record["SequenceNumber"] for record in put if record["ShardId"] == shard]
        assert own == sorted(own, key=int), "sequence numbers grow"
        start = {} if kind == "LATEST" else {"StartingSequenceNumber": own[1]}
        iterator = api.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType=kind, **start)["ShardIterator"]
        given = api.get_records(ShardIterator=iterator)["Records"]
        found.append((shard, len(own), [(record["PartitionKey"], record["Data"]) for record in given]))
    assert found[0] == found[1]
    assert (
        len(found[0][2]) == {"AFTER_SEQUENCE_NUMBER": found[0][1] - 2, "AT_SEQUENCE_NUMBER": found[0][1] - 1, "LATEST": 0}[kind]
    )


@pytest.mark.parametrize(
    "given",
    [
        {"StreamName": "nonesuch stream!"},
        {"Records": [{"Data": b"x" * 1_048_577, "PartitionKey": "k"}]},
        {"Records": [{"Data": b"x" * 1_000_000, "PartitionKey": "k"}] * 6},
        {"Records": [{"Data": b"x", "PartitionKey": "k"}] * 501},
    ],
    ids=["stream", "record", "request", "records"],
)
def test_the_same_is_refused_with_the_same_code(both: tuple[Any, Any], given: dict[str, Any]) -> None:
    codes = []
    for api in both:
        with pytest.raises(botocore.exceptions.ClientError) as error:
            api.put_records(**{"StreamName": STREAM, "Records": records(1), **given})
        codes.append((error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]))
        assert not any(read(api, limit=10).values()), "nothing of it is there"
    assert codes[0] == codes[1]


def test_the_connector_puts_into_motos_stream_what_it_puts_into_the_twins(twins: Twins, both: tuple[Any, Any], moto: str) -> None:
    operations = [Operation(f"op{n}", "enter", f"lead{n}@example.com", {"score": n}, f"message{n}") for n in range(600)]
    shards = []
    for connection in (
        twins.connection("kinesis"),
        Connection("sandbox", "moto", {"region": "eu-central-1", "timeout_seconds": 10.0}, {}, moto),
    ):
        with kinesis.connect(connection) as destination:
            outcomes = destination.deliver(Action("put", {"stream": STREAM, "key_field": "email"}), operations)
        assert {outcome.status for outcome in outcomes} == {"delivered"}
        shards.append({outcome.id: outcome.remote_id.partition(":")[0] for outcome in outcomes})
    assert shards[0] == shards[1]
    of_twin, of_moto = (read(api, limit=1000) for api in both)
    assert of_twin == of_moto
    assert sum(map(len, of_moto.values())) == 600
