"""Defects of Weave Net 2.8 (reference, cli.md section 10) that no other test keeps out.

The others: 2 `test_weave_ipam_api.py` (`peer_that_lives`), 3 `test_simulation_ipam_removal.py` (two takers at once),
4 `test_weave_status_views.py`, 5 `test_weave_ipam_api.py` (what cannot be served ends in time), 6
`test_simulation_connections.py` and `test_lab_traffic.py` (forget), 9 `test_lab_fast_datapath.py` (small underlay), 10
`test_weave_api.py` (TCP changes nothing), `test_weave_daemon.py` (mode of the socket); those of the CNI plugin:
`cni_plugin/test_cni_defects_of_28.py`. Number 8, the status 400 for an identifier without addresses, is kept for 2.8's
tools.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from weave.http_asker import on_socket, on_writable_tcp

if TYPE_CHECKING:
    from weave.http_asker import Asker


@on_writable_tcp
async def test_bad_value_of_skip_nat_changes_nothing(ask: Asker) -> None:
    """Number 1: 2.8 answered 400, exposed the address all the same and translated it."""
    host = ask.daemon.fakes.host
    rules = host.exposed
    for value in ("maybe", "2", "yes%20please", "%00"):
        answer = await ask("POST", f"/expose/10.32.0.9/12?skipNAT={value}")
        assert answer.status == 400, value
        assert host.devices["weave"].addresses == []
        assert host.exposed == rules, "no rule was changed"
        assert (await ask("GET", "/ip")).json == {"owned": None}


@on_socket
async def test_status_tells_the_version_and_calls_nobody(ask: Asker) -> None:
    """Number 7: 2.8 asked a server on the Internet for newer versions."""
    text = (await ask("GET", "/status")).body
    (line,) = (line for line in text.splitlines() if line.strip().startswith("Version:"))
    assert re.fullmatch(r"\s*Version: [0-9][0-9a-z.+-]*", line), line
