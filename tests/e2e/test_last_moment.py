"""A withdrawal that lands while a sync is under way: whoever no longer agrees is not sent, also who has waited since yesterday."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cdp_assets.space.home import Home
from resources.destinations import Action, Operation, Outcome, salesforce
from resources.destinations import http as wire
from tests.e2e.conftest import END, HOUR, ROOT, Stage, copied, make

CONTACTS = "overdue_contacts"
BATCH = 5


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owl_bank that has never run."""
    folder = tmp_path_factory.mktemp("fresh")
    shutil.copytree(ROOT / "spaces" / "owl_bank", folder / "space")
    make(folder / "space", Home(folder / "home"), profiles=150, days=6)
    return folder


@pytest.fixture
def fresh(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with copied(generated, tmp_path / "stage", monkeypatch) as stage:
        yield stage


@pytest.mark.parametrize("since_yesterday", [False, True])
def test_a_withdrawal_that_lands_between_two_batches_is_heeded_in_the_next(
    fresh: Stage, monkeypatch: pytest.MonkeyPatch, since_yesterday: bool
) -> None:
    # What waits is due again at once, not in a minute.
    monkeypatch.setattr(wire, "SOON", dt.timedelta(0))
    if since_yesterday:
        fresh.faults("salesforce", {"kind": "503"})
        waiting = fresh.run(END).summary["activations"][CONTACTS]
        assert (waiting["delivered"], waiting["waiting"]) == (0, waiting["considered"] - sum(waiting["withheld"].values()))
        fresh.no_faults("salesforce")
    everybody = [one for one in fresh.people("owl_bank") if "user_id" in one]
    batches: list[list[str]] = []
    send = salesforce.SalesforceDestination.deliver

    def hold(self: salesforce.SalesforceDestination, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        outcomes = send(self, action, operations)
        if not batches:  # the answer to the first batch is held until the withdrawal has landed
            sent = {o.key for o in operations}
            fresh.withdraw("owl_bank", [one for one in everybody if one.get("user_id") not in sent])
        batches.append([o.key for o in operations])
        return outcomes

    small = dataclasses.replace(salesforce.CAPABILITIES, batch_rows=BATCH, bulk=None)
    monkeypatch.setattr(salesforce, "CAPABILITIES", small)
    monkeypatch.setattr(salesforce.SalesforceDestination, "deliver", hold)
    counts = fresh.run(END + HOUR).summary["activations"][CONTACTS]
    assert [len(batch) for batch in batches] == [BATCH]
    assert counts["delivered"] == BATCH
    assert counts["withheld"]["consent"] >= 2 * BATCH
    held = {r["fields"]["Cdp_Id__c"] for r in fresh.twin("salesforce/records?object=Contact")["records"]}
    assert held == set(batches[0])
