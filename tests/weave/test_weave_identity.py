"""Peer names: the order of preference, and what a name looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from weave_net.errors import StoreError
from weave_net.host_facts import HostFacts, read_bridge_mac, read_host_facts
from weave_net.identity import KEY, choose_name, establish_name, name_of_machine
from weave_router.testing.stores import MemoryStore
from weave_router.wire.peer_name import parse_peer_name

STATE = Path("/var/lib/weave")
FACTS = HostFacts(machine_id="8f6b", machine_uuid="4c4c4544", bridge_mac="7a:00:00:00:00:01")
LOCAL_BIT, GROUP_BIT = 0x02 << 40, 0x01 << 40


def test_order_of_preference() -> None:
    assert choose_name(5, 6, FACTS, STATE) == 5
    assert choose_name(None, 6, FACTS, STATE) == 6
    assert choose_name(None, None, FACTS, STATE) == parse_peer_name("7a:00:00:00:00:01")
    without_bridge = HostFacts(FACTS.machine_id, FACTS.machine_uuid)
    assert choose_name(None, None, without_bridge, STATE) == name_of_machine(without_bridge, STATE)
    assert choose_name(None, None, HostFacts(), STATE, random_bits=lambda bits: (1 << bits) - 1) == 0xFEFFFFFFFFFF


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "01:00:5e:00:00:01", "nonsense", ""])
def test_bridge_mac_that_names_no_device_is_passed_over(mac: str) -> None:
    facts = HostFacts("8f6b", "4c4c4544", mac)
    assert choose_name(None, None, facts, STATE) == name_of_machine(facts, STATE)


def test_derived_names_are_stable_and_differ_by_every_fact() -> None:
    names = {
        name_of_machine(HostFacts(*facts), directory)
        for facts, directory in [
            (("8f6b", "4c4c"), STATE),
            (("8f6b", "4c4d"), STATE),
            (("8f6c", "4c4c"), STATE),
            (("8f6b", "4c4c"), Path("/tmp/h2")),
            (("8f6b4", "c4c"), STATE),
            (("8f6b", ""), STATE),
            (("", "8f6b"), STATE),
        ]
    }
    assert len(names) == 7
    assert name_of_machine(HostFacts("8f6b", "4c4c"), STATE) == name_of_machine(HostFacts("8f6b", "4c4c"), STATE)


def test_derived_names_are_local_unicast_addresses() -> None:
    for number in range(200):
        name = name_of_machine(HostFacts(str(number)), STATE)
        assert name is not None
        assert name & LOCAL_BIT
        assert not name & GROUP_BIT


def test_machine_without_properties_has_no_derived_name() -> None:
    assert name_of_machine(HostFacts(), STATE) is None


def test_name_is_kept_although_the_machine_changes() -> None:
    async def main() -> None:
        store = MemoryStore()
        first = await establish_name(store, None, FACTS, STATE)
        assert await establish_name(store, None, HostFacts("other"), Path("/elsewhere")) == first
        assert store.writes == 1

    trio.run(main)


def test_given_name_is_stored_for_the_next_time() -> None:
    async def main() -> None:
        store = MemoryStore({KEY: "7a:00:00:00:00:09"})
        assert await establish_name(store, 1, FACTS, STATE) == 1
        assert await store.read(KEY) == {KEY: "00:00:00:00:00:01"}
        assert await establish_name(store, None, FACTS, STATE) == 1

    trio.run(main)


def test_stored_nonsense_is_told_and_a_given_name_repairs_it() -> None:
    async def main() -> None:
        store = MemoryStore({KEY: "nonsense"})
        with pytest.raises(StoreError, match="--name"):
            await establish_name(store, None, FACTS, STATE)
        assert await establish_name(store, 7, FACTS, STATE) == 7

    trio.run(main)


def test_facts_of_this_machine_can_be_read() -> None:
    facts = read_host_facts("no-such-bridge")
    assert facts.bridge_mac is None
    assert read_bridge_mac("lo") is None
