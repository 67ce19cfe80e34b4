"""The host's network devices through rtnetlink, behind the door `weave_router.doors.Host`."""
