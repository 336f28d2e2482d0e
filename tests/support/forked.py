"""The server that runs programs, each in a fork of itself, which has imported the libraries already: that saves seconds.

A line of standard input is a request: a JSON list of [arguments, text of standard input], and the environment. The line of
standard output that answers it has for each [exit code, standard output, standard error]. As many run at once as there
are cores. Nothing here may start JAX's backend, whose threads a fork would lose.
"""

import gc
import json
import os
import runpy
import signal
import sys
import tempfile
import warnings

import lm.runs.run  # noqa: F401  with all that the programs import, but not the programs, whose flags have the same names
import lm.training.loop  # noqa: F401


def start(arguments: list[str], given: str, environment: dict[str, str]) -> tuple[int, list]:
    """Process id, and the files of its three streams."""
    streams = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  they live as long as the child
    streams[0].write(given.encode(errors="surrogateescape"))
    streams[0].seek(0)
    child = os.fork()
    if not child:
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        os.environ.clear()
        os.environ.update(environment)
        signal.alarm(600)
        become(arguments)
    return child, streams


def become(arguments: list[str]) -> None:
    """The program, to the end of this process."""
    sys.argv, sys.stdin = arguments, os.fdopen(0)
    try:
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code != 2:
            raise
        # A refusal has nothing to finish, and the interpreter's end would copy the memory that it shares with its parent.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    sys.exit()


def main() -> None:
    gc.freeze()  # children do not look through what was imported, and so need no copy of it
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\) was called")
    for line in sys.stdin:
        calls, environment = json.loads(line)
        waiting, running, answers = list(enumerate(calls)), {}, {}
        while waiting or running:
            if waiting and len(running) < os.cpu_count():
                index, (arguments, given) = waiting.pop(0)
                child, streams = start(arguments, given, environment)
                running[child] = index, streams
                continue
            child, status = os.wait()
            index, streams = running.pop(child)
            for stream in streams:
                stream.seek(0)
            answers[index] = [os.waitstatus_to_exitcode(status), *(stream.read().decode() for stream in streams[1:])]
        print(json.dumps([answers[index] for index in range(len(calls))]), flush=True)


if __name__ == "__main__":
    main()
