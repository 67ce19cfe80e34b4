"""An upstream name server for the lab, as a program: UDP and TCP on port 53 of the addresses that it is given.

    python tests/lab/name_server_stub.py 192.0.2.2 2001:db8::2

It knows the few names of `RECORDS`, fails for `broken.example.`, and says of all others that they do not exist.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import dns.rcode
import dns.rdatatype
import trio

# It runs by its path, in another namespace than the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from name_server.stub_server import Received, StubServer, nothing_there, rrset

LONG = 120
"""Addresses of long.example.: more than fit into a datagram."""

RECORDS = (
    "www.example. 60 IN A 203.0.113.7",
    "www.example. 60 IN AAAA 2001:db8:113::7",
    "four.example. 60 IN A 203.0.113.4",
    "six.example. 60 IN AAAA 2001:db8:113::6",
    "alias.example. 60 IN CNAME www.example.",
    "7.113.0.203.in-addr.arpa. 60 IN PTR www.example.",
    *(f"long.example. 60 IN A 203.0.113.{number}" for number in range(1, LONG + 1)),
)

_zone: defaultdict[str, list[str]] = defaultdict(list)
for _record in RECORDS:
    _zone[_record.partition(" ")[0]].append(_record)


async def behave(received: Received) -> None:
    """Answer from the records, as a resolver does: aliases followed, long answers by TCP only."""
    question = received.query.question[0]
    name = question.name.to_text().lower()
    if name == "broken.example.":
        await received.answer(rcode=dns.rcode.SERVFAIL)
    elif name not in _zone:
        await nothing_there(received)
    else:
        records = list(_zone[name])
        for record in _zone[name]:
            if " CNAME " in record:
                records += _zone[record.split()[-1]]
        kinds = (dns.rdatatype.to_text(question.rdtype), "CNAME")
        wanted = [record for record in records if record.split()[3] in kinds]
        response = received.response(*wanted)
        if not wanted:
            response.authority = [rrset("example. 60 IN SOA ns.example. hostmaster.example. 1 2 3 4 60")]
        limit = 65535 if received.tcp else max(received.query.payload, 512)
        await received.send(response.to_wire(max_size=limit, prefer_truncation=True))


async def serve(addresses: list[str]) -> None:
    """Serve for ever."""
    async with trio.open_nursery() as nursery:
        for address in addresses:
            server = StubServer(address, 53)
            server.behave = behave
            nursery.start_soon(server.run)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1:])
