"""A daemon process of fakes, started by `weave launch` in tests. WEAVE_TEST_START says what goes wrong, if anything."""

from __future__ import annotations

import os
import sys
import time

from weave_net.daemon_process import main
from weave_net.testing.statuses import SAMPLE_STATUS
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError

fakes = FakeWiring()
make_router = fakes._make_router


def make_and_show(*arguments: object, **options: object) -> object:
    """A router with something to show."""
    router = make_router(*arguments, **options)  # type: ignore[arg-type]
    router.shown = SAMPLE_STATUS
    return router


fakes._make_router = make_and_show  # type: ignore[method-assign, assignment]
# The one namespace of which a test can know the path.
fakes.host.add_namespace(os.environ.get("WEAVE_TEST_NAMESPACE", "/run/netns/web"))

match os.environ.get("WEAVE_TEST_START"):
    case "busy":
        fakes.start_error = HostError("TCP port 6783 is in use by another program")
    case "bug":
        fakes.start_error = RuntimeError("a bug in the router")
    case "death":
        print("last words", file=sys.stderr, flush=True)
        os.abort()
    case "silence":
        os._exit(3)
    case "sleep":
        time.sleep(60)
    case _:
        pass

sys.exit(main(fakes.wiring()))
