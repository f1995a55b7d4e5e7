"""The network to the other nodes: streams of raft's messages, snapshots, and nothing that decides."""
