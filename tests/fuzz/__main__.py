"""Run cases and print what is wrong, a line each; the exit status is 1 if anything is."""

import argparse
import sys
import time

from fuzz import MAKERS, finding


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--kind", choices=tuple(MAKERS), help="cases of one kind alone")
    asked = parser.parse_args()
    numbers = range(asked.count) if asked.only is None else [asked.only]
    if asked.kind:
        numbers = [n for n in numbers if n % len(MAKERS) == list(MAKERS).index(asked.kind)]
    started, wrong = time.perf_counter(), 0
    for number in numbers:
        line = finding(asked.seed, number)
        if line:
            print(line, flush=True)
        wrong += bool(line)
    print(f"{len(numbers)} cases, {wrong} findings, {time.perf_counter() - started:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
