"""Consensus: a Raft core that decides and never does; see README.md beside it."""
