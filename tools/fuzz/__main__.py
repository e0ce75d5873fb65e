"""Throw random and damaged models at `quantize` and count what comes of them.

python -m tools.fuzz --cases 10000 --seed 1 [--grammar architectures] [--workers 2] [--keep FOLDER]
python -m tools.fuzz --seed 1 --case 4711        one case, in this process, with its traceback
python -m tools.fuzz --seed 1 --case 4711 --add NAME --why "what is wrong"    into the corpus of what once failed
python -m tools.fuzz --cases 300 --models FOLDER their models as files, as for `dfmpc-onnx batch`; nothing is run
python -m tools.fuzz --corpus [FOLDER]           that corpus alone, or such a folder; every other run begins with it
python -m tools.fuzz --cases 10000 --seed 1 --ledger RUN/1.jsonl    goes on where it was stopped, defects first
python -m tools.fuzz --table RUN/*.jsonl > docs/tables/fuzz.md      what these runs have come to

Two grammars: `graphs` draws operators at random and damages models, `architectures` draws whole networks with weights
as training leaves them, in the form that exporters give them.
A ledger keeps the outcome of each case with the commit; the first three defects of a kind stand in a folder beside it,
as cases of the corpus do.

Each case runs in a worker process under a limit of time and memory, so a crash, a hang and a swelling are seen, too.
Exit status 1 where anything came out but a quantized network that agrees, refused layers, or a clear error.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from tools.fuzz import corpus, ledger, pool
from tools.fuzz.grammars import CORPUS, GRAMMARS, GRAPHS, drawer
from tools.fuzz.trial import ERROR, GOOD, Case, tried


def one(case: Case) -> int:
    """Run one case and say all of it."""
    outcome = tried(case)
    print(f"{case.kind} of {case.source}, {len(case.model)} bytes, {case.options}\n{outcome.detail}")
    print(f"{outcome.outcome}: {outcome.place}")
    return 0 if outcome.outcome in GOOD else 1


def _keep(folder: pathlib.Path | None, name: str, case: Case, why: str = "") -> None:
    if folder is not None and not (folder / f"{name}.onnx").exists():
        corpus.keep(case, name, why, folder, sys.maxsize)


def many(
    seed: int,
    numbers: Sequence[int],
    workers: int,
    keep: pathlib.Path | None,
    sentences: bool,
    grammar: str = GRAPHS,
    noted: ledger.Ledger | None = None,
) -> int:
    """Run cases, print each defect of a new kind as it is found, and the table in the end."""
    commit = ledger.commit()
    began, work = time.monotonic(), functools.partial(pool.work, grammar=grammar)
    table: collections.Counter[tuple[str, str]] = collections.Counter()
    said: collections.Counter[str] = collections.Counter()
    defects: dict[str, list[int]] = {}
    done = 0
    with contextlib.suppress(KeyboardInterrupt):  # what has been tried until then is told
        for done, (number, case, outcome) in enumerate(pool.results(seed, numbers, workers, work), 1):
            table[case.kind, outcome.outcome] += 1
            if noted is not None:
                noted.add(number, case, outcome, commit)
            if outcome.outcome == ERROR:
                said[outcome.place] += 1
            elif outcome.outcome not in GOOD:
                found = defects.setdefault(outcome.place, [])
                found.append(number)
                if len(found) == 1:
                    print(f"case {number}, {case.kind} of {case.source}, {case.options}", flush=True)
                    print(f"{outcome.place}: {outcome.detail.strip()[-1500:]}\n", flush=True)
                if len(found) <= 3:
                    _keep(keep, f"{seed}_{number}", case, f"{outcome.place}: {outcome.detail.strip()[-300:]}")
            if done % 500 == 0:
                print(f"{done} of {len(numbers)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    kinds = sorted({kind for kind, _ in table})
    print(f"| outcome | {' | '.join(kinds)} | all |\n|---{'|---' * len(kinds)}|---|")
    for row in (*GOOD, "defect"):
        counts = [table[kind, row] for kind in kinds]
        print(f"| {row} | {' | '.join(map(str, counts))} | {sum(counts)} |")
    for place, cases in sorted(defects.items(), key=lambda item: -len(item[1])):
        print(f"{len(cases)} x {place}: cases {', '.join(map(str, cases[:8]))}")
    for sentence, count in said.most_common(60) if sentences else ():
        print(f"{count} x {sentence}")
    print(f"{done} cases of {grammar}, seed {seed}, {time.monotonic() - began:.0f} s")
    return 1 if defects else 0


def of_corpus(folder: pathlib.Path, options: argparse.Namespace) -> int:
    """Run a folder of what once failed: in worker processes ours, in this one another."""
    if folder != corpus.FOLDER:
        return max([one(corpus.read(name, folder)) for name in corpus.names(folder)], default=0)
    return many(0, range(len(corpus.names())), options.workers, options.keep, options.errors, CORPUS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grammar", choices=GRAMMARS, default=GRAPHS)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the models of defects")
    parser.add_argument("--case", type=int, help="run this one alone, and say all of it")
    parser.add_argument("--add", metavar="NAME", help="with --case: put it into the corpus of what once failed")
    parser.add_argument("--why", default="", help="with --add: what was wrong, in a sentence")
    parser.add_argument(
        "--corpus", nargs="?", type=pathlib.Path, const=corpus.FOLDER, help="run what once failed, and nothing else"
    )
    parser.add_argument("--ledger", type=pathlib.Path, help="a file to note outcomes in, and to go on from")
    parser.add_argument(
        "--table", nargs="+", type=pathlib.Path, help="print the table of these ledgers; nothing is run"
    )
    parser.add_argument("--models", type=pathlib.Path, help="write the models of the cases there, and run none of them")
    parser.add_argument("--errors", action="store_true", help="count the sentences of clear errors, too")
    options = parser.parse_args()
    if options.table is not None:
        print("\n".join(ledger.table(options.table)))
        return 0
    if options.case is not None:
        case = drawer(options.grammar)(options.seed, options.case)
        _keep(options.keep, f"{options.seed}_{options.case}", case)
        if options.add is not None:
            print(corpus.keep(case, options.add, options.why))
        return one(case)
    numbers = range(options.first, options.first + options.cases)
    if options.models is not None:
        draw = drawer(options.grammar)
        for number in numbers:
            options.models.mkdir(parents=True, exist_ok=True)
            (options.models / f"{options.seed}_{number}.onnx").write_bytes(draw(options.seed, number).model)
        return 0
    once = of_corpus(options.corpus or corpus.FOLDER, options)
    if options.corpus is not None:
        return once
    noted, keep, left = None, options.keep, list(numbers)
    if options.ledger is not None:
        noted = ledger.opened(options.ledger, options.grammar, options.seed)
        keep, left = keep or options.ledger.with_suffix(""), noted.left(numbers)
    return many(options.seed, left, options.workers, keep, options.errors, options.grammar, noted) or once


if __name__ == "__main__":
    sys.exit(main())
