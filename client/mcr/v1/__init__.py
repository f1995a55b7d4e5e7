"""Messages of mcr.v1, generated from protos/."""
