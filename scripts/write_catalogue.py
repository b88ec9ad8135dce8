"""Write widgets/labs/catalogue.json anew, which the gallery shows: the cards of all mechanisms, the verdicts of their claims.

Without an option only those mechanisms are tried of which a claim is new or was changed; each takes up to some minutes.
"""

import argparse
import json
from pathlib import Path

import explorer
from explorer import snapshot

TARGET = Path(__file__).resolve().parent.parent / "widgets/labs/catalogue.json"


def main() -> None:
    options = arguments()
    before = json.loads(TARGET.read_text(encoding="utf-8"))["mechanisms"] if TARGET.exists() else []
    measure = chosen(options, before)
    print(f"trying the claims of: {', '.join(measure) or 'none'}", flush=True)
    entries = snapshot.write(before, measure, options.jobs, lambda done, of: print(f"run {done} of {of}", flush=True))
    TARGET.write_text(json.dumps({"mechanisms": entries}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    untried = snapshot.stale(entries)
    print(f"{TARGET.name}: {len(entries)} mechanisms; not tried as they stand: {', '.join(untried) or 'none'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", help="try the claims of these alone, changed or not")
    which.add_argument("--all", action="store_true", help="try the claims of every mechanism again")
    which.add_argument("--cards", action="store_true", help="try nothing: only copy what the cards say")
    parser.add_argument("--jobs", type=int, help="runs at once; without it one a core")
    return parser.parse_args()


def chosen(options: argparse.Namespace, before: list[snapshot.Entry]) -> list[str]:
    if options.only:
        return [explorer.spec(name).name for name in options.only]
    if options.all:
        return explorer.names()
    return [] if options.cards else snapshot.stale(before)


if __name__ == "__main__":
    main()
