"""The network and IPAM plugin for Docker: `serve` answers the engine over a Unix socket."""

from weave_docker.plugin.service import PluginSettings, serve

__all__ = ["PluginSettings", "serve"]
