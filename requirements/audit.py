"""Look up the known weaknesses of the packages that are tested; one sentence where no service can be reached.

Command: make audit
"""

import subprocess
import sys
from pathlib import Path

TESTED = Path(__file__).parent / "tested.txt"
SERVICES = ("pypi", "osv")


def main() -> int:
    """Ask one service after the other, and return 0 if nothing is known, 1 if something is, 2 if none answers."""
    for service in SERVICES:
        words = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        words += ["--timeout", "30", "--vulnerability-service", service, "--requirement", str(TESTED)]
        done = subprocess.run(words, capture_output=True, text=True)
        unknown = "could not be audited" in done.stdout  # the service has not answered
        if "Found" in done.stderr or (done.returncode == 0 and not unknown):
            print(done.stdout + done.stderr, end="")
            return done.returncode
    print("no service of known weaknesses can be reached; run `make audit` where there is a network", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
