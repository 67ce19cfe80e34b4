"""The host's network devices through pyroute2, behind the door `weave_router.doors.Host`."""
