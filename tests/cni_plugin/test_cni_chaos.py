"""Many at once, and kills at any moment: every address once, and nothing left.

WEAVE_ROUNDS sets the number of kills, WEAVE_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import NotConforming, valid_attachments
from lab.network import wait_until

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Answer, Call, Pod

pytestmark = pytest.mark.root

ROUNDS = int(os.environ.get("WEAVE_ROUNDS", "2"))
SEED = int(os.environ.get("WEAVE_SEED") or random.SystemRandom().randrange(10**6))
MANY = 100
ADD_S = 0.25
"""Within which an ADD is over on a machine with little to do: kills come before that."""
CROWD_LIMIT_S = 60.0


@pytest.fixture
def dice() -> random.Random:
    """Random numbers that a failing test tells how to repeat."""
    print(f"repeat with WEAVE_SEED={SEED}")
    return random.Random(SEED)


def all_at_once(weave: CniHost, command: str, pods: list[Pod]) -> list[Answer]:
    """One process for each container, started together."""
    calls = [weave.runtime.start("weave-net", weave.runtime.environment(command, pod), weave.config()) for pod in pods]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call.answer(CROWD_LIMIT_S), calls))


def firewall(weave: CniHost) -> str:
    """All rules of the host, without counters."""
    return weave.host.run("nft", "-s", "list", "ruleset")


def feed_and_kill(call: Call, delay_s: float) -> None:
    """Let a call run for a moment, then kill it."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call.answer)
        time.sleep(delay_s)
        with suppress(ProcessLookupError):
            call.kill()
        with suppress(NotConforming):
            answer.result()


def collect(weave: CniHost, alive: list[Pod]) -> None:
    """GC by our plugin alone."""
    config = {**weave.config(), **valid_attachments([(pod.id, "eth0") for pod in alive])}
    weave.runtime.run("weave-net", weave.runtime.environment("GC"), config).nothing()


def leftovers(weave: CniHost, alive: list[Pod]) -> list[object]:
    """What belongs to no container that is alive."""
    identifiers = {pod.id for pod in alive}
    attachments = weave.attachments()
    links = weave.host_links() - {entry["host_interface"] for entry in attachments}
    return [
        *(entry for entry in attachments if entry["id"] not in identifiers),
        *(identifier for identifier in weave.owned() if identifier not in identifiers),
        *links,
    ]


def check_only(weave: CniHost, alive: list[Pod], rules: str) -> None:
    """Nothing is left but these containers, now and a moment later."""
    wait_until(lambda: not leftovers(weave, alive), 5, "everything to be collected")
    assert leftovers(weave, alive) == []
    assert firewall(weave) == rules


def test_a_hundred_at_once(weave: CniHost) -> None:
    with ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(lambda _: weave.pod(), range(MANY)))
    begin = time.monotonic()
    results = [answer.result() for answer in all_at_once(weave, "ADD", pods)]
    print(f"{MANY} ADDs: {time.monotonic() - begin:.1f} s")
    assert len({result["ips"][0]["address"] for result in results}) == MANY
    assert len({result["interfaces"][1]["name"] for result in results}) == MANY
    assert len({result["interfaces"][2]["mac"] for result in results}) == MANY
    assert {address for addresses in weave.owned().values() for address in addresses} == {
        result["ips"][0]["address"] for result in results
    }
    for pod, result in zip(pods[::10], results[::10], strict=True):
        assert [entry["local"] for entry in weave.addresses(pod)] == [result["ips"][0]["address"].split("/")[0]]
    begin = time.monotonic()
    for answer in all_at_once(weave, "DEL", pods):
        answer.nothing()
    print(f"{MANY} DELs: {time.monotonic() - begin:.1f} s")
    assert leftovers(weave, []) == []


def test_comings_and_goings_at_once(weave: CniHost, dice: random.Random) -> None:
    """DEL of some while others are added, and the same container's again and again."""
    network = weave.network()
    pods = [weave.pod() for _ in range(8)]
    seeds = [dice.randrange(10**6) for _ in pods]

    def live(pod: Pod, seed: int) -> None:
        moments = random.Random(seed)
        for _ in range(3):
            address = weave.runtime.add(network, pod)["ips"][0]["address"]
            assert [f"{entry['local']}/{entry['prefixlen']}" for entry in weave.addresses(pod)] == [address]
            time.sleep(moments.uniform(0, 0.05))
            weave.runtime.check(network, pod)
            weave.runtime.delete(network, pod)

    with ThreadPoolExecutor(len(pods)) as pool:
        for future in [pool.submit(live, pod, seed) for pod, seed in zip(pods, seeds, strict=True)]:
            future.result()
    assert leftovers(weave, []) == []


def test_plugin_killed_while_it_adds(weave: CniHost, dice: random.Random) -> None:
    network, alive = weave.network(), weave.pod()
    weave.add(network, alive)
    rules = firewall(weave)
    for number in range(2 * ROUNDS):
        pod = weave.pod()
        call = weave.runtime.start("weave-net", weave.runtime.environment("ADD", pod), weave.config())
        feed_and_kill(call, dice.uniform(0.02, ADD_S))
        if number % 2:
            weave.vanish(pod)
        collect(weave, [alive])
        check_only(weave, [alive], rules)
        if not number % 2:
            weave.add(network, pod)
            weave.delete(network, pod)
    weave.runtime.check(network, alive)


def test_plugin_killed_while_it_deletes(weave: CniHost, dice: random.Random) -> None:
    network, alive = weave.network(), weave.pod()
    weave.add(network, alive)
    rules = firewall(weave)
    for _ in range(ROUNDS):
        pod = weave.pod()
        weave.add(network, pod)
        call = weave.runtime.start("weave-net", weave.runtime.environment("DEL", pod), weave.config())
        feed_and_kill(call, dice.uniform(0.02, ADD_S / 2))
        weave.delete(network, pod)
        check_only(weave, [alive], rules)
        assert not weave.has_interface(pod, "eth0")
    weave.runtime.check(network, alive)


def test_daemon_killed_while_containers_come_and_go(weave: CniHost, dice: random.Random) -> None:
    network, alive = weave.network(), weave.pod()
    weave.add(network, alive)
    rules = firewall(weave)
    for _ in range(max(1, ROUNDS // 2)):
        coming, going = [weave.pod() for _ in range(3)], [weave.pod() for _ in range(3)]
        for pod in going:
            weave.add(network, pod)
        calls = {
            pod: weave.runtime.start("weave-net", weave.runtime.environment(command, pod), weave.config())
            for command, pods in (("ADD", coming), ("DEL", going))
            for pod in pods
        }
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = {pod: pool.submit(call.answer) for pod, call in calls.items()}
            time.sleep(dice.uniform(0.03, 2 * ADD_S))
            weave.host.kill()
            answers = {pod: future.result() for pod, future in futures.items()}
        for pod in going:
            answers[pod].nothing()
        added = []
        for pod in coming:
            if answers[pod].status == 0:
                answers[pod].result()
                added.append(pod)
            else:
                assert answers[pod].failure().code == 11
        weave.launch()
        collect(weave, [alive, *added])
        check_only(weave, [alive, *added], rules)
        for pod in added:
            assert weave.has_interface(pod, "eth0"), "what was answered is kept"
            weave.delete(network, pod)
        assert not weave.pending
    weave.runtime.check(network, alive)
