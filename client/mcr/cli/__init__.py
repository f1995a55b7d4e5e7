"""The `mcr` command: one module per noun; `output` prints, `settings` looks around."""
