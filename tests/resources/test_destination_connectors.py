"""What holds for every connector: the mode fence, and the right class of outcome for every way a call can fail."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from resources.destinations import Action, Connection, Destination, DestinationConfigError, Operation, Outcome, registry
from resources.destinations import http as wire

SYSTEMS = ("salesforce", "marketo", "gainsight")
SECRET = "s3cret-of-the-live-account"
LIVE: dict[str, Connection] = {
    "salesforce": Connection(
        "live", "00D000000000001EAA", {"my_domain": "acme.my.salesforce.com"}, {"client_id": "id", "client_secret": SECRET}
    ),
    "marketo": Connection("live", "123-ABC-456", {}, {"client_id": "id", "client_secret": SECRET}),
    "gainsight": Connection("live", "acme.gainsightcloud.com", {}, {"access_key": SECRET}),
}


@dataclass
class Subject:
    """A connector to a twin, with operations that suit it."""

    system: str
    twins: Any
    destination: Destination
    action: Action
    payload: dict[str, Any]

    def operations(self, count: int = 4, kind: Any = "enter", start: int = 0) -> list[Operation]:
        return [
            Operation(f"op{n}", kind, f"key.{n}@example.com", self.payload, f"message{n}") for n in range(start, start + count)
        ]

    def deliver(self, operations: list[Operation] | None = None) -> list[Outcome]:
        given = self.operations() if operations is None else operations
        outcomes = self.destination.deliver(self.action, given)
        assert sorted(o.id for o in outcomes) == sorted(o.id for o in given)  # one each, none twice
        return sorted(outcomes, key=lambda outcome: int(outcome.id[2:]))

    def be_impatient(self) -> None:
        """Wait half a second for an answer that does not come, not two."""
        self.destination.close()
        self.destination = registry.connect(self.system, self.twins.connection(self.system, timeout_seconds=0.5))

    def writes(self) -> list[dict[str, Any]]:
        """Calls that write: neither sign-ins nor look-ups."""
        return [call for call in self.twins.calls(self.system) if "oauth" not in call["path"] and "/query" not in call["path"]]


ACTIONS = {
    "salesforce": (
        Action("upsert", {"object": "Contact", "key_field": "CDP_Id__c", "flag_field": "Member__c"}),
        {"LastName": "N"},
    ),
    "marketo": (Action("upsert", {"flag_field": "Member__c"}), {"firstName": "Jan"}),
    "gainsight": (Action("upsert", {"object": "Company", "flag_field": "Member__gc"}), {"Employees": 3}),
}


@pytest.fixture(params=SYSTEMS)
def subject(request: pytest.FixtureRequest, twins: Any) -> Iterator[Subject]:
    destination = registry.connect(request.param, twins.connection(request.param))
    subject = Subject(request.param, twins, destination, *ACTIONS[request.param])
    yield subject
    subject.destination.close()


def statuses(outcomes: list[Outcome]) -> set[str]:
    return {outcome.status for outcome in outcomes}


def flags(subject: Subject) -> dict[str, Any]:
    """Key -> membership flag, as the system now holds it."""
    key = {"salesforce": "CDP_Id__c", "marketo": "email", "gainsight": "Name"}[subject.system]
    flag = subject.action.settings["flag_field"]
    return {record[key]: record.get(flag) for record in subject.twins.records(subject.system)}


# -- the good case ----------------------------------------------------------------------------------------------------


def test_delivered_records_are_at_the_system_with_their_flag(subject: Subject) -> None:
    outcomes = subject.deliver()
    assert statuses(outcomes) == {"delivered"}
    assert all(outcome.remote_id and not outcome.reason for outcome in outcomes)
    assert flags(subject) == {f"key.{n}@example.com": True for n in range(4)}


def test_the_same_again_changes_nothing_and_makes_no_duplicate(subject: Subject) -> None:
    first, again = subject.deliver(), subject.deliver()
    assert [o.remote_id for o in first] == [o.remote_id for o in again]
    assert len(subject.twins.records(subject.system)) == 4


def test_an_exit_sets_the_flag_to_false(subject: Subject) -> None:
    subject.deliver()
    assert statuses(subject.deliver(subject.operations(2, "exit"))) == {"delivered"}
    assert list(flags(subject).values()) == [False, False, True, True]


def test_a_retract_carries_key_and_flag_only_and_never_creates(subject: Subject) -> None:
    subject.deliver(subject.operations(1))
    before = subject.twins.records(subject.system)[0]
    changed = [
        replace(o, payload={"LastName": "leaked", "firstName": "leaked", "Employees": 99})
        for o in subject.operations(2, "retract")
    ]
    outcomes = subject.deliver(changed)
    assert statuses(outcomes) == {"delivered"}
    assert [bool(outcome.warning) for outcome in outcomes] == [False, True]
    assert subject.twins.records(subject.system) == [{**before, subject.action.settings["flag_field"]: False}]


def test_a_retract_that_may_pass_later_waits_and_is_done_then(subject: Subject) -> None:
    subject.deliver(subject.operations(4))
    subject.twins.fault(subject.system, kind="partial_failure", rows=1.0)
    retracts = subject.operations(4, "retract")
    outcomes = subject.deliver(retracts)
    # Gainsight refuses a call by a validation error, which is the record's own fault; the others name a passing reason.
    assert statuses(outcomes) == {"rejected" if subject.system == "gainsight" else "waiting"}
    assert all(outcome.reason for outcome in outcomes)
    subject.twins.no_faults(subject.system)
    assert statuses(subject.deliver(retracts)) == {"delivered"}
    assert set(flags(subject).values()) == {False}


def test_a_retract_without_a_flag_field_is_rejected_and_said(subject: Subject) -> None:
    settings = {name: value for name, value in subject.action.settings.items() if name != "flag_field"}
    subject.action = replace(subject.action, settings=settings)
    outcomes = subject.deliver([*subject.operations(1), *subject.operations(1, "retract", start=1)])
    assert [o.status for o in outcomes] == ["delivered", "rejected"]
    assert outcomes[1].reason.startswith("config:")


def test_a_flag_in_the_payload_is_left_alone(subject: Subject) -> None:
    flag = subject.action.settings["flag_field"]
    subject.payload = {**subject.payload, flag: False}
    subject.deliver(subject.operations(1))
    assert list(flags(subject).values()) == [False]


def test_a_full_batch_is_delivered(subject: Subject) -> None:
    rows = subject.destination.capabilities.batch_rows
    assert statuses(subject.deliver(subject.operations(rows))) == {"delivered"}
    assert len(subject.twins.records(subject.system)) == rows


def test_a_call_carries_a_key_of_its_messages(subject: Subject) -> None:
    subject.deliver(subject.operations(2))
    subject.deliver(subject.operations(2))
    subject.deliver(subject.operations(3))
    keys = [call["idempotency_key"] for call in subject.writes()]
    assert all(keys)
    assert keys[0] == keys[1] != keys[-1]


def test_an_empty_batch_calls_nobody(subject: Subject) -> None:
    assert subject.deliver([]) == []
    assert subject.writes() == []


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["429", "503", "500"])
def test_a_passing_trouble_is_tried_again_within_the_call(subject: Subject, kind: str) -> None:
    subject.twins.fault(subject.system, kind=kind, times=1, retry_after=0)
    assert statuses(subject.deliver()) == {"delivered"}


@pytest.mark.parametrize("kind", ["429", "503", "500"])
def test_a_lasting_trouble_waits(subject: Subject, kind: str) -> None:
    subject.twins.fault(subject.system, kind=kind)
    outcomes = subject.deliver()
    assert statuses(outcomes) == {"waiting"}
    assert all(outcome.not_before and outcome.not_before > wire.now() for outcome in outcomes)
    assert subject.twins.records(subject.system) == []


def test_a_long_retry_after_is_not_waited_for_and_nobody_asks_before(subject: Subject) -> None:
    subject.twins.fault(subject.system, kind="429", times=1, retry_after=120)
    outcomes = subject.deliver()
    assert statuses(outcomes) == {"waiting"}
    assert all(wire.now() + dt.timedelta(seconds=100) < o.not_before < wire.now() + dt.timedelta(seconds=121) for o in outcomes)
    calls = len(subject.twins.calls(subject.system))
    assert statuses(subject.deliver()) == {"waiting"}
    assert len(subject.twins.calls(subject.system)) == calls


def test_no_answer_before_the_commit_is_unknown_and_can_be_sent_again(subject: Subject) -> None:
    subject.deliver(subject.operations(1, start=9))  # signed in
    method = "PATCH" if subject.system == "salesforce" else "POST"
    path = {"salesforce": "composite", "marketo": "leads.json", "gainsight": "objects/Company"}[subject.system]
    subject.twins.fault(subject.system, kind="timeout_before_commit", method=method, path=path, seconds=4, times=1)
    subject.be_impatient()
    assert statuses(subject.deliver()) == {"unknown"}
    assert statuses(subject.deliver()) == {"delivered"}
    assert len(subject.twins.records(subject.system)) == 5


def test_a_lost_answer_after_the_commit_is_not_taken_for_a_failure(subject: Subject) -> None:
    subject.deliver(subject.operations(1, start=9))
    path = {"salesforce": "composite", "marketo": "leads.json", "gainsight": "objects/Company"}[subject.system]
    subject.twins.fault(subject.system, kind="commit_then_drop", path=path, times=1)
    outcomes = subject.deliver()
    # Only where an insert cannot be repeated blindly does the connector look what became of it.
    assert statuses(outcomes) == {"delivered" if subject.system == "gainsight" else "unknown"}
    assert statuses(subject.deliver()) == {"delivered"}
    assert len(subject.twins.records(subject.system)) == 5


def test_a_partial_failure_fails_the_failing_records_alone(subject: Subject) -> None:
    subject.twins.fault(subject.system, kind="partial_failure", rows=0.3, seed=5)
    outcomes = subject.deliver(subject.operations(20))
    failed = [o for o in outcomes if o.status != "delivered"]
    assert 0 < len(failed) < 20
    # Gainsight refuses a call by a validation error, which is the record's own fault; the others name a passing reason.
    assert statuses(failed) == {"rejected" if subject.system == "gainsight" else "waiting"}
    assert len(subject.twins.records(subject.system)) == 20 - len(failed)
    subject.twins.no_faults(subject.system)
    assert statuses(subject.deliver(subject.operations(20))) == {"delivered"}


def test_a_spent_token_is_renewed_once_and_the_call_replayed(subject: Subject) -> None:
    subject.deliver(subject.operations(1, start=9))
    subject.twins.fault(subject.system, kind="expired_token", times=1)
    if subject.system == "gainsight":  # an access key cannot be renewed: somebody has to give another
        assert statuses(subject.deliver()) == {"waiting"}
    else:
        assert statuses(subject.deliver()) == {"delivered"}
        assert sum("oauth" in call["path"] for call in subject.twins.calls(subject.system)) == 2


def test_a_token_that_is_never_good_waits_for_a_person_and_does_not_loop(subject: Subject) -> None:
    subject.twins.fault(subject.system, kind="expired_token")
    outcomes = subject.deliver()
    assert statuses(outcomes) == {"waiting"}
    assert all(outcome.reason.startswith("auth:") for outcome in outcomes)
    assert len(subject.twins.calls(subject.system)) <= 4


def test_a_used_up_quota_waits_and_nobody_asks_before(subject: Subject) -> None:
    subject.twins.fault(subject.system, kind="quota_exhausted", times=1)
    outcomes = subject.deliver()
    assert statuses(outcomes) == {"waiting"}
    assert all(outcome.not_before > wire.now() + dt.timedelta(seconds=30) for outcome in outcomes)
    calls = len(subject.twins.calls(subject.system))
    other = registry.connect(subject.system, subject.twins.connection(subject.system))  # another activation of the account
    assert {o.status for o in other.deliver(subject.action, subject.operations(1))} == {"waiting"}
    assert len(subject.twins.calls(subject.system)) == calls


def test_a_slow_answer_is_waited_for(subject: Subject) -> None:
    subject.twins.fault(subject.system, kind="slow", seconds=0.05)
    assert statuses(subject.deliver()) == {"delivered"}


def test_a_system_that_is_down_waits(subject: Subject) -> None:
    connection = replace(subject.twins.connection(subject.system), base_url="http://127.0.0.1:9")
    with registry.connect(subject.system, connection) as destination:  # type: ignore[attr-defined]
        outcomes = destination.deliver(subject.action, subject.operations(2))
    assert {(o.status, o.reason) for o in outcomes} == {("waiting", "not_connected")}


@pytest.mark.parametrize("kind", ["500", "timeout_before_commit"])
def test_a_failed_sign_in_waits_because_nothing_was_sent(subject: Subject, kind: str) -> None:
    if subject.system == "gainsight":
        pytest.skip("Gainsight has no sign-in")
    subject.twins.fault(subject.system, kind=kind, path="/oauth", seconds=2)
    subject.be_impatient()
    assert statuses(subject.deliver()) == {"waiting"}
    assert subject.writes() == []


# -- configuration and the mode fence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "url", ["https://acme.example.com", "http://169.254.1.1", "http://127.0.0.1.example.com", "https://localhost.example"]
)
def test_a_sandbox_connection_refuses_every_remote_host(system: str, url: str) -> None:
    with pytest.raises(DestinationConfigError, match="loopback"):
        registry.connect(system, Connection("sandbox", "", base_url=url))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sandbox_connection_without_the_twins_url_is_refused(system: str) -> None:
    with pytest.raises(DestinationConfigError, match="base_url"):
        registry.connect(system, Connection("sandbox", "acme"))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8787/x", "https://localhost", "https://[::1]", "https://[::ffff:127.0.0.1]", "https://0.0.0.0"]
)
def test_a_live_connection_refuses_loopback(system: str, url: str) -> None:
    with pytest.raises(DestinationConfigError, match="live"):
        registry.connect(system, replace(LIVE[system], base_url=url))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_live_connection_needs_an_account_https_and_credentials(system: str) -> None:
    registry.connect(system, LIVE[system]).close()
    with pytest.raises(DestinationConfigError, match="account"):
        registry.connect(system, replace(LIVE[system], account=""))
    with pytest.raises(DestinationConfigError, match="https"):
        registry.connect(system, replace(LIVE[system], base_url="http://acme.example.com"))
    with pytest.raises(DestinationConfigError, match="credentials are missing") as refused:
        registry.connect(system, replace(LIVE[system], credentials={"client_id": SECRET}))
    assert SECRET not in str(refused.value)


def test_a_live_secret_never_goes_to_a_twin(twins: Any) -> None:
    for system in SYSTEMS:
        connection = replace(twins.connection(system), credentials=LIVE[system].credentials)
        with registry.connect(system, connection) as destination:  # type: ignore[attr-defined]
            action, payload = ACTIONS[system]
            outcomes = destination.deliver(action, [Operation("op0", "enter", "a@example.com", payload, "m")])
        # The twins take their own public credentials only, so a delivery shows that those were sent.
        assert [o.status for o in outcomes] == ["delivered"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sandbox_ignores_the_proxy_of_the_environment(twins: Any, system: str, monkeypatch: Any) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    action, payload = ACTIONS[system]
    with registry.connect(system, twins.connection(system)) as destination:  # type: ignore[attr-defined]
        outcomes = destination.deliver(action, [Operation("op0", "enter", "a@example.com", payload, "m")])
    assert [o.status for o in outcomes] == ["delivered"]


def test_an_unknown_action_is_a_configuration_error(subject: Subject) -> None:
    with pytest.raises(DestinationConfigError, match="action"):
        subject.destination.deliver(replace(subject.action, name="explode"), subject.operations())


@pytest.mark.parametrize("system", ["salesforce", "gainsight"])
def test_a_missing_setting_is_named(twins: Any, system: str) -> None:
    with (
        registry.connect(system, twins.connection(system)) as destination,  # type: ignore[attr-defined]
        pytest.raises(DestinationConfigError, match="'object'"),
    ):
        destination.deliver(Action("upsert", {}), [])


def test_capabilities_are_whole(subject: Subject) -> None:
    capabilities = registry.capabilities(subject.system)
    assert capabilities.type == subject.system
    assert capabilities.batch_rows > 0 and capabilities.evidence.startswith("https://")
    assert all("*" in rules for rules in capabilities.fields.values())


# -- privacy ----------------------------------------------------------------------------------------------------------


def test_no_reason_log_or_output_holds_a_value_or_a_secret(subject: Subject, caplog: Any, capfd: Any) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    caplog.handler.setLevel(logging.DEBUG)
    secret_value = "Nováková-tajná"
    bad = {
        "salesforce": {"LastName": "N", "Email": secret_value},
        "marketo": {"firstName": secret_value, "leadScore": secret_value},
        "gainsight": {"Employees": secret_value},
    }[subject.system]
    subject.payload = bad
    subject.be_impatient()
    outcomes = subject.deliver(subject.operations(3))
    assert statuses(outcomes) == {"rejected"}
    for kind in ("429", "500", "commit_then_drop", "timeout_before_commit", "expired_token", "quota_exhausted"):
        subject.twins.no_faults(subject.system)
        subject.twins.fault(subject.system, kind=kind, seconds=10)
        outcomes += subject.deliver(subject.operations(2, "retract" if kind == "500" else "enter"))
    printed = capfd.readouterr()
    text = caplog.text + printed.out + printed.err + repr(outcomes)
    for forbidden in (secret_value, "example.com", "sandbox-secret", "127.0.0.1/", "Bearer"):
        assert forbidden not in text
    logging.getLogger().setLevel(logging.WARNING)
