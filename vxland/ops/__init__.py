"""Logs, metrics, the service manager, and the server of the API socket."""
