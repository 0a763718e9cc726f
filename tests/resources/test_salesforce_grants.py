"""Salesforce's two ways to sign in: the secret of a connected app, and a statement signed with a key."""

from __future__ import annotations

import base64
import json
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from resources.destinations import Action, Connection, DestinationConfigError, Operation
from resources.destinations.registry import connect
from resources.destinations.salesforce import SalesforceDestination
from tests.resources.conftest import Twins

CONTACTS = Action("upsert", {"object": "Contact", "key_field": "Cdp_Id__c"})
CONTACT = Operation("1", "enter", "u1", {"LastName": "Lee"}, "m1")


@pytest.mark.parametrize("grant", ["client_credentials", "jwt"])
def test_both_grants_deliver(twins: Twins, grant: str) -> None:
    with closing(connect("salesforce", twins.connection("salesforce", grant=grant))) as destination:
        (outcome,) = destination.deliver(CONTACTS, [CONTACT])
    assert outcome.status == "delivered"


def live(**credentials: str) -> Connection:
    named = {"client_id": "consumer", "username": "api@acme.example", **credentials}
    settings = {"my_domain": "acme.my.salesforce.com", "grant": "jwt", "audience": "https://test.salesforce.com"}
    return Connection("live", "00D000000000001AAA", settings, named)


def test_the_statement_is_signed_with_the_key_and_names_who_signs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    asked: list[httpx.Request] = []

    def answer(client: httpx.Client, request: httpx.Request, **_: Any) -> httpx.Response:
        asked.append(request)
        return httpx.Response(400, json={"error": "invalid_grant"}, request=request)

    monkeypatch.setattr(httpx.Client, "send", answer)
    with closing(connect("salesforce", live(private_key=pem))) as destination:
        (outcome,) = destination.deliver(CONTACTS, [CONTACT])
    assert (outcome.status, outcome.reason) == ("waiting", "auth:invalid_grant")
    (request,) = asked
    form = parse_qs(request.content.decode())
    assert str(request.url) == "https://acme.my.salesforce.com/services/oauth2/token"
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = jwt.decode(form["assertion"][0], key.public_key(), algorithms=["RS256"], audience="https://test.salesforce.com")
    assert (claims["iss"], claims["sub"]) == ("consumer", "api@acme.example")
    with pytest.raises(jwt.InvalidSignatureError):
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
        jwt.decode(form["assertion"][0], other, algorithms=["RS256"], audience="https://test.salesforce.com")


def test_a_key_that_is_none_is_refused_without_being_named() -> None:
    with closing(connect("salesforce", live(private_key="very-secret-nonsense"))) as destination:
        assert isinstance(destination, SalesforceDestination)
        with pytest.raises(DestinationConfigError, match="private_key is no RSA key") as error:
            destination.deliver(CONTACTS, [CONTACT])
    assert error.value.__cause__ is None
    assert "very-secret" not in str(error.value)


def test_missing_credentials_and_other_grants_are_named() -> None:
    with pytest.raises(DestinationConfigError, match="credentials are missing: private_key"):
        connect("salesforce", live())
    with pytest.raises(DestinationConfigError, match="client_credentials or jwt"):
        connect("salesforce", Connection("live", "org", {"my_domain": "acme.my.salesforce.com", "grant": "password"}, {}))


def test_no_live_key_goes_to_a_twin(twins: Twins) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    connection = twins.connection("salesforce", grant="jwt")
    own = Connection(connection.mode, connection.account, connection.settings, {"private_key": pem}, connection.base_url)
    with closing(connect("salesforce", own)) as destination:
        assert isinstance(destination, SalesforceDestination)
        made = destination._assertion()["assertion"]
    head = json.loads(base64.urlsafe_b64decode(made.split(".")[0] + "=="))
    assert head["alg"] == "RS256"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(made, key.public_key(), algorithms=["RS256"], audience="https://login.salesforce.com")
