"""In place of the worker in tests: what it does is the model's first word, and no library is read for it."""

import json
import os
import pathlib
import sys
import time

ENDLESS = 600  # seconds; whoever starts it ends it


def main():
    order = json.loads(sys.stdin.buffer.read())
    content = pathlib.Path(order["job"]["model"]).read_text()
    say({"stage": "load"})
    word = content.split()[0]
    if word == "hang":
        hang(order)
    {"abort": os.abort, "exit": leave, "full": full}.get(word, lambda: done(order, content))()


def done(order, content):
    for stage in ("check", "quantize", "write", "verify"):
        say({"stage": stage})
    text = f"{content} {json.dumps(order['job']['options'], sort_keys=True)}"
    pathlib.Path(order["output"]).write_text(text)
    if order["report"]:
        pathlib.Path(order["report"]).write_text("<p>report</p>")
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    figures = {"bytes": len(text), "sqnr_db": 20.0, "agreement": 97.0, "agreement_low": 90.0, "basis": "generated"}
    say({"row": {"status": "ok", "code": "ok", "sha256": digest, **figures}})


def hang(order):
    say({"stage": "check"})
    begun = pathlib.Path(order["output"]).with_suffix(".begun")
    begun.with_suffix(".pid").write_text(str(os.getpid()))
    begun.with_suffix(".pid").rename(begun)
    time.sleep(ENDLESS)


def leave():
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    sys.exit(1)


def full():
    say({"row": {"status": "failed", "code": "disk-full", "reason": "cannot be written (No space left on device)"}})


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
