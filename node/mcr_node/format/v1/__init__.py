"""Messages of mcr_node.format.v1, generated from protos/."""
