"""What container engines need of us: CNI files and Docker's plugin socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import CniFacts, DockerFacts
    from weave_net.doctor.findings import Finding

_SET_UP = "'weave setup-cni' installs them again"


def diagnose_cni(cni: CniFacts) -> Iterator[Finding]:
    """Whether a runtime that looks for networks finds ours, and can run it."""
    present = {name: trouble for name, trouble in cni.plugins.items() if trouble is not None}
    if not present and not cni.ours:
        yield ok("cni", "not set up here; 'weave setup-cni' would, for containerd, CRI-O and Kubernetes")
        return
    clear = True
    for name, trouble in cni.plugins.items():
        if trouble is None:
            clear = False
            yield problem("cni", f"the plugin {cni.plugin_dir / name} is missing", _SET_UP)
        elif trouble:
            clear = False
            yield problem("cni", f"the plugin {cni.plugin_dir / name} does not run: {trouble}", _SET_UP)
    if not cni.ours:
        yield note(
            "cni",
            f"no configuration in {cni.configuration_dir} uses the plugins",
            "'weave setup-cni' writes one, unless you keep your own elsewhere",
        )
        return
    first = cni.ours[0]
    before = [name for name in cni.configurations if name < first]
    if before:
        yield note(
            "cni",
            f"{', '.join(before)} in {cni.configuration_dir} come before {first}: runtimes that take the first network "
            "(containerd, CRI-O, Kubernetes) do not use weave",
            f"remove or rename what comes first, or give {first} a name that sorts before it",
        )
    elif clear:
        yield ok("cni", f"plugins in {cni.plugin_dir} run, {first} comes first in {cni.configuration_dir}")


def diagnose_docker(docker: DockerFacts) -> Iterator[Finding]:
    """Sockets that nobody serves make Docker wait."""
    stale = [path for path, answers in docker.sockets.items() if not answers]
    for path in stale:
        yield problem(
            "docker",
            f"{path} is there, but nobody answers: Docker waits for it when it starts, and for each container on a "
            "weave network",
            f"start the daemon with 'weave launch', or remove the file: 'rm {path}'",
        )
    live = [path for path, answers in docker.sockets.items() if answers]
    if live:
        yield ok("docker", f"the network plugin answers on {', '.join(live)}")
    elif not stale:
        yield ok("docker", "the network plugin has no socket here")
