"""Conversations with the kernel over rtnetlink, the parsing of its messages, and the choice of the underlay."""
