"""Messages of mcr_node.peer.v1, generated from protos/."""
