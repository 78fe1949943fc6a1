"""Frames as operators see them: decoding, filters, traces, drop reasons and pcapng files."""
