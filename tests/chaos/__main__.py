"""`make chaos`: schedulers, runners and Postgres are killed and stopped at random while runs go on."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.chaos.ordeal import ordeal, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="length of the storm; the whole takes 30 s more")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--schedulers", type=int, default=3)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="of an earlier storm, to repeat its plan"
    )
    parser.add_argument(
        "--keep", type=str, default=None, metavar="FILE", help="write what the schedulers said to a file"
    )
    chosen = parser.parse_args()
    print(
        f"seed {chosen.seed}: {chosen.schedulers} schedulers, {chosen.runs} runs, {chosen.seconds:g} s of storm",
        flush=True,
    )
    outcome = ordeal(
        seed=chosen.seed, seconds=chosen.seconds, runs=chosen.runs, schedulers=chosen.schedulers, keep=chosen.keep
    )
    print(table(outcome))
    return 1 if outcome.verdict.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
