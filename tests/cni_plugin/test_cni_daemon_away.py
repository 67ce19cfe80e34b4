"""The daemon is down, hangs, or cannot give addresses yet: what runtimes hear, and what is made good later.

A start takes seconds, so one host goes through it once, and the tests look at what was seen on the way.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_host import CniHost
from cni_plugin.cni_runtime import Pod, valid_attachments
from lab.network import Lab, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni_plugin.cni_runtime import Answer, Json

pytestmark = pytest.mark.root

USED_UP = "10.45.0.0/29"
PATIENCE_S = 15.0
"""An ADD waits so long at most for an address."""
ANSWER_S = 5.0
"""A question after the state may take so long at most, whatever the daemon does."""


def foreign(weave: CniHost) -> Json:
    """The configuration that another plugin hands to our address plugin."""
    return {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}


def ask(weave: CniHost, plugin: str, command: str, pod: Pod, **changes: object) -> Answer:
    """One call of one of our plugins."""
    config = {**(weave.config() if plugin == "weave-net" else foreign(weave)), **changes}
    return weave.runtime.run(plugin, weave.runtime.environment(command, pod), config)


@dataclass
class Story:
    """What happened to one host: never started, started, killed with containers, started again."""

    weave: CniHost
    alone: CniHost
    """Another host, that has to agree with a second one first."""
    waiting: dict[str, Future[Answer]] = field(default_factory=dict)
    """ADDs that wait for an address in vain, meanwhile."""
    before: dict[str, Answer] = field(default_factory=dict)
    """Answers before the first start."""
    away: dict[tuple[str, str], Answer] = field(default_factory=dict)
    """Answers while the daemon was away, by plugin and command."""
    records: int = 0
    """Deletions that waited for the daemon."""
    pods: dict[str, Pod] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    """Records that make no sense."""
    late_record: Path = field(default_factory=Path)
    """One that was written while the daemon ran, of an attachment that was then made again."""
    leases: list[str] = field(default_factory=list)
    """Addresses that another address plugin had given, and still had while the daemon was away."""


def wait_alone(story: Story, pool: ThreadPoolExecutor) -> None:
    """Begin an ADD on a host that has to agree with a second one first."""
    alone = story.alone = CniHost(story.weave.lab, "alone")
    alone.host.weave("launch", "--ipalloc-init", "consensus=2")
    alone.set_up()
    story.pods["alone"] = pod = alone.pod()
    call = alone.runtime.start("weave-net", alone.runtime.environment("ADD", pod), alone.config())
    story.waiting["alone"] = pool.submit(call.answer)


def wait_for_a_free_address(story: Story, pool: ThreadPoolExecutor) -> None:
    """Begin an ADD in a subnet that is used up."""
    weave, pod = story.weave, story.pods["late"]
    weave.use_up("hog", USED_UP)
    config = weave.config(ipam={"subnet": USED_UP})
    call = weave.runtime.start("weave-net", weave.runtime.environment("ADD", pod), config)
    story.waiting["used up"] = pool.submit(call.answer)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Tell it."""
    leases = tmp_path_factory.mktemp("leases")
    with Lab() as lab, ThreadPoolExecutor(2) as pool:
        weave = CniHost(lab)
        story = Story(weave, weave)
        weave.set_up()
        pods = {
            name: weave.pod() for name in ("kept", "gone", "vanished", "leased", "address", "other", "again", "late")
        }
        story.pods = pods
        for command in ("STATUS", "ADD", "DEL"):
            story.before[command] = ask(weave, "weave-net", command, pods["kept"])
        weave.launch()
        wait_alone(story, pool)

        network = weave.network()
        leased = weave.network("1.0.0", ipam={"type": "host-local", "dataDir": str(leases), "subnet": "10.99.0.0/24"})
        result = {name: weave.add(network, pods[name]) for name in ("kept", "gone", "vanished", "again")}["kept"]
        weave.add(leased, pods["leased"])
        ask(weave, "weave-ipam", "ADD", pods["address"]).result()
        weave.host.kill()

        for plugin in ("weave-net", "weave-ipam"):
            for command in ("ADD", "GC", "STATUS"):
                story.away[plugin, command] = ask(weave, plugin, command, pods["other"], **valid_attachments([]))
            story.away[plugin, "CHECK"] = ask(weave, plugin, "CHECK", pods["kept"], prevResult=result)
            story.away[plugin, "VERSION"] = ask(weave, plugin, "VERSION", pods["kept"])
            story.away[plugin, "unknown"] = ask(weave, plugin, "DEL", Pod(f"unknown-{plugin}", ""))
        weave.vanish(pods["vanished"])
        for round_ in ("first", "second"):
            story.away["weave-net", f"{round_} DEL"] = ask(weave, "weave-net", "DEL", pods["gone"])
            story.away["weave-ipam", f"{round_} DEL"] = ask(weave, "weave-ipam", "DEL", pods["address"])
        story.away["weave-net", "DEL without namespace"] = ask(weave, "weave-net", "DEL", Pod(pods["vanished"].id, ""))
        story.away["weave-net", "DEL of the one that comes again"] = ask(weave, "weave-net", "DEL", pods["again"])
        story.leases += [path.name for path in leases.glob("weave/10.*")]
        weave.delete(leased, pods["leased"])
        story.leases += [path.name for path in leases.glob("weave/10.*")]
        story.records = len(weave.pending)
        record = next(path for path in weave.pending if pods["again"].id.encode() in path.read_bytes())
        content_again = record.read_bytes()
        for name, content in (("half", b'{"contai'), ("empty", b""), ("binary", b"\xff\x00"), ("list", b"[]")):
            for ending in {"", weave.pending[0].suffix}:
                path = weave.pending[0].with_name(f"{name}{ending}")
                path.write_bytes(content)
                story.damaged.append(path)
        weave.launch()
        wait_until(lambda: set(weave.pending) <= set(story.damaged), 5, "the good records to be worked off")
        # As when DEL gave up on a daemon that hung: a record comes to be that the running daemon has not read.
        record.write_bytes(content_again)
        weave.add(network, pods["again"])
        story.late_record = record
        wait_for_a_free_address(story, pool)
        yield story


def test_before_the_first_start(story: Story) -> None:
    assert story.before["STATUS"].failure().code == 50
    assert story.before["ADD"].failure().code == 11
    story.before["DEL"].nothing()


@pytest.mark.parametrize("plugin", ["weave-net", "weave-ipam"])
def test_what_needs_the_daemon_says_try_again(story: Story, plugin: str) -> None:
    for command in ("ADD", "CHECK", "GC"):
        failure = story.away[plugin, command].failure()
        assert (failure.code, "weave launch" in failure.message + failure.details) == (11, True), command
    assert not story.weave.has_interface(story.pods["other"], "eth0")
    assert story.away[plugin, "VERSION"].result()["supportedVersions"]


def test_status_knows_of_containers_that_may_be_cut_off(story: Story) -> None:
    assert story.away["weave-net", "STATUS"].failure().code == 51
    assert story.away["weave-ipam", "STATUS"].failure().code in {50, 51}
    assert all(answer.seconds < ANSWER_S for (_, command), answer in story.away.items() if command == "STATUS")


def test_delete_succeeds_without_the_daemon(story: Story) -> None:
    deletions = [answer for (_, command), answer in story.away.items() if "DEL" in command or command == "unknown"]
    assert len(deletions) == 8
    for answer in deletions:
        answer.nothing()


def test_deletions_are_recorded_and_made_good(story: Story) -> None:
    weave = story.weave
    assert story.records >= 5
    for name in ("gone", "vanished", "leased", "address"):
        assert weave.owned_by(story.pods[name]) == [], name
    for name in ("gone", "leased"):
        assert not weave.has_interface(story.pods[name], "eth0"), name
    attached = {attachment["id"] for attachment in weave.attachments()}
    assert attached == {story.pods["kept"].id, story.pods["again"].id}
    assert len(weave.host_links()) == 2


def test_other_address_plugins_are_asked_at_once(story: Story) -> None:
    assert story.leases == ["10.99.0.2"], "there before DEL, not after it"


def test_container_that_is_not_deleted_stays_whole(story: Story) -> None:
    story.weave.runtime.check(story.weave.network(), story.pods["kept"])


def test_record_that_comes_late_does_not_hit_the_next_attachment_of_that_name(story: Story) -> None:
    """Else the next start of the daemon would delete it."""
    wait_until(lambda: not story.late_record.exists(), 10, "the end of the record")
    story.weave.runtime.check(story.weave.network(), story.pods["again"])


def test_damaged_records_do_no_harm(story: Story) -> None:
    assert story.damaged
    story.weave.runtime.status(story.weave.network())


def test_daemon_that_hangs(story: Story) -> None:
    weave = story.weave
    pid = weave.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = ask(weave, "weave-net", "STATUS", story.pods["other"])
        assert answer.failure().code in {50, 51}
        assert answer.seconds < ANSWER_S
    finally:
        os.kill(pid, signal.SIGCONT)
    weave.runtime.status(weave.network())


def test_target_that_does_not_answer(story: Story) -> None:
    """Containers of one host work without others: 51 may be said, not 50."""
    weave = story.weave
    weave.host.weave("connect", "192.0.2.77")
    try:
        answer = ask(weave, "weave-net", "STATUS", story.pods["other"])
        assert answer.status == 0 or answer.failure().code == 51
    finally:
        weave.host.weave("forget", "192.0.2.77")


# -- no address to be had -----------------------------------------------------------------------------------------


def test_addresses_that_are_not_agreed_on_yet(story: Story) -> None:
    """One host of two that have to agree on who gives which addresses."""
    alone, pod = story.alone, story.pods["alone"]
    for plugin in ("weave-net", "weave-ipam"):
        answer = ask(alone, plugin, "STATUS", pod)
        assert answer.failure().code == 50
        assert answer.seconds < ANSWER_S, "it waits for no agreement"
    assert story.waiting["alone"].result().failure().code == 11
    ask(alone, "weave-net", "DEL", pod).nothing()
    assert (alone.known(), alone.host_links()) == (({}, []), set())


def test_subnet_that_is_used_up(story: Story) -> None:
    weave, pod = story.weave, story.pods["late"]
    for plugin in ("weave-net", "weave-ipam"):
        failure = ask(weave, plugin, "STATUS", pod, ipam=weave.weave_ipam(subnet=USED_UP)).failure()
        assert failure.code == 50
    weave.runtime.status(weave.network())
    answer = story.waiting["used up"].result()
    assert answer.failure().code == 11, "an address may become free"
    assert answer.seconds < PATIENCE_S
    assert weave.owned_by(pod) == []
    assert not weave.has_interface(pod, "eth0")
