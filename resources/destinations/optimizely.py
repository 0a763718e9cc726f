"""Optimizely Data Platform: attributes of profiles, found by an identifier.

Membership is a boolean attribute (``flag_field``); a retract sets it to false. A call that is refused names no record, so it is halved until
the one at fault stands alone.
Settings of the connection: ``region`` (us, eu1, au1; live). Credentials: ``api_key``, the private key.
Settings of the action: ``key_field`` (``email`` by default; vuid, customer_id, phone, fs_user_id), ``flag_field``.
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
    RateLimit,
)
from resources.destinations import http as wire

IDENTIFIERS: Final = ("email", "vuid", "customer_id", "phone", "fs_user_id")  # [D]

CAPABILITIES: Final = Capabilities(
    type="optimizely",
    actions=("profiles",),
    batch_rows=500,  # [D]
    batch_bytes=4_000_000,  # [M] no limit in bytes is published
    resend="upsert",
    attribution="none",  # resolved here, by halving
    retract="flag_false",
    rates=(RateLimit(10, 1.0),),  # [D] there are no headers to go by
    concurrency=1,
    fields={"": {"email": FieldRule("email"), "*": FieldRule()}},
    default_key_fields={"": "email"},
    evidence="https://docs.developers.optimizely.com/optimizely-data-platform/reference/profiles-endpoints",
)

_HOSTS: Final = {
    "us": "https://api.zaius.com",
    "eu1": "https://api.eu1.odp.optimizely.com",
    "au1": "https://api.au1.odp.optimizely.com",
}


def connect(connection: Connection) -> OptimizelyDestination:
    """A connector to an ODP account. Raises :class:`DestinationConfigError`."""
    return OptimizelyDestination(connection)


class OptimizelyDestination(Connector):
    """One account, by its private key."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        region = str(connection.settings.get("region", "us"))
        if region not in _HOSTS:
            raise DestinationConfigError(f"settings.region is one of {', '.join(_HOSTS)}")
        self._base = wire.base_url(connection, _HOSTS[region])
        self._key = wire.credentials(connection, "api_key")["api_key"]
        account = wire.account_of("optimizely", connection, self._base, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, account, wire.judge_status)

    def close(self) -> None:
        self._wire.close()

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Upsert one batch of profiles. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        key_field = str(wire.setting(action.settings, "key_field", "email"))
        if key_field not in IDENTIFIERS:
            raise DestinationConfigError(f"settings.key_field is one of {', '.join(IDENTIFIERS)}")
        flag_field = action.settings.get("flag_field")
        writes, retracts, outcomes = wire.split(operations, flag_field)
        return outcomes + wire.by_halves([*writes, *retracts], lambda part: self._profiles(part, key_field, flag_field))

    def _profiles(self, operations: Sequence[Operation], key_field: str, flag_field: str | None) -> list[Outcome]:
        profiles = []
        for operation in operations:
            record = wire.record_of(operation, key_field, flag_field)
            known = {name: record.pop(name) for name in IDENTIFIERS if record.get(name) not in (None, "")}
            profiles.append({"identifiers": known, "attributes": record})
        headers = {
            "x-api-key": self._key,
            "Content-Type": "application/json",
            "Idempotency-Key": wire.idempotency_key(operations),
        }
        self._wire.call("POST", f"{self._base}/v3/profiles", writes=True, content=orjson.dumps(profiles), headers=headers)
        return [Outcome(operation.id, "delivered") for operation in operations]
