"""The doing half: carries out what the core decides."""
