"""Runs the data-driven scenario files of etcd's Raft library against our core."""
