"""Which nodes hold which chunks: computed alike on every node from the member table, nothing is stored."""
