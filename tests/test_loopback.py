"""The suite's own fence: a test that reaches for another machine fails."""

import socket

import httpx
import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com"])
def test_another_machine_is_out_of_reach(host: str) -> None:
    with pytest.raises(AssertionError, match="not this machine"):
        socket.create_connection((host, 443), timeout=1)
    with pytest.raises(AssertionError, match="not this machine"):
        httpx.get(f"https://{host}/", trust_env=False)


def test_this_machine_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=1) as client:
        assert client.getpeername() == server.getsockname()
