"""Run every benchmark, one after the other; each prints a table and writes benchmarks/out/*.json.

    python benchmarks/run_all.py [--quick]

Run them on a quiet machine. --quick only shows that they run: its figures mean little.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    arguments = ["--quick"] if options.quick else []
    failed = []
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n{script.name}", flush=True)
        done = subprocess.run([sys.executable, str(script), *arguments], check=False)
        if done.returncode:
            failed.append(script.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
