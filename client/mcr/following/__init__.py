"""Keeping a folder at a channel: fetch, verify, switch, load, acknowledge; and back when loading fails."""
