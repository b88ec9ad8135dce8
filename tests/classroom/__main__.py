"""`python -m tests.classroom NAME [options]`: run one of the programs of this folder; its exit code is 1 if it fell short."""

import importlib
import sys

# name -> module with main(argv) -> int
PROGRAMS = {
    "grading": "tests.classroom.grading",
    "load": "tests.classroom.load",
    "frames": "tests.classroom.frames",
    "queries": "tests.classroom.queries",
    "payloads": "tests.classroom.payloads",
    "uploads": "tests.classroom.uploads",
    "leaks": "tests.classroom.leaks",
    "faults": "tests.classroom.faults",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in PROGRAMS:
        print(f"usage: python -m tests.classroom NAME [options]; NAME is one of {', '.join(PROGRAMS)}", file=sys.stderr)
        return 2
    name, *options = arguments
    return int(importlib.import_module(PROGRAMS[name]).main(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
