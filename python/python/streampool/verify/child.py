"""The inside of a fresh process: `python -m streampool.verify.child SPEC`. See `children`."""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import threading
import traceback
from typing import Any

from .check import NotRun
from .children import MARK
from .context import Context


def load(function: str) -> Any:
    """The function that `module:name` names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def watch(contexts: list[Context], seconds: float) -> None:
    """Prints what each stream waits for if the process is still there so late; then Python says where its
    threads are and ends it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)

    def dump() -> None:
        for context in contexts:
            sys.stderr.write(f"still running; streams:\n{context.dump()}\n")
        sys.stderr.flush()

    timer = threading.Timer(seconds * 0.9, dump)
    timer.daemon = True
    timer.start()


def main() -> None:
    """Reads the specification, does the work, prints one line with what came of it."""
    spec = json.loads(sys.argv[1])
    sys.setswitchinterval(spec["switch_interval"])
    contexts: list[Context] = []
    # Before the context, which counts threads.
    watch(contexts, spec["limit"])
    context = Context(spec["device"], quick=spec["quick"], plant=spec["plant"])
    contexts.append(context)
    answer: dict[str, Any]
    try:
        if context.plant:
            load(context.plant)(context)
        result = load(spec["function"])(context, **spec["arguments"])
        context.finish()
        answer = {"result": result}
    except NotRun as e:
        answer = {"not_run": str(e)}
    except Exception as e:
        answer = {"failed": f"{type(e).__name__}: {e}", "detail": traceback.format_exc()}
    print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
