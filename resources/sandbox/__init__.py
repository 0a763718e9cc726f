"""The twins: executable local doubles of the destinations' APIs, one module per system, one server for all.

A twin is written from its system's documented wire contract and from what independent clients send and expect, never from
our own connector; where a fact is not confirmed the code says so with an evidence tag: [D] vendor documentation, [C] read in an
independent production connector, [P] observed with a real client, [M] general knowledge, to be checked before it is relied on.

Everything listens on loopback only, and the credentials below are public on purpose: a live secret never goes to a twin.
"""

from __future__ import annotations

from typing import Final

# Who may call the twins. The same pair is the OAuth client of Salesforce and Marketo, the Salesforce user and its password; the
# secret alone is Gainsight's access key.
CLIENT_ID: Final = "sandbox"
CLIENT_SECRET: Final = "sandbox-secret"
