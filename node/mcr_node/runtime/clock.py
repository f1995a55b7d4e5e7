"""The clock of a real node. The only place that reads one."""

import time


class SystemClock:
    """`ports.Clock` of the operating system."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some start; never goes back."""
        return time.monotonic_ns()
