"""Runs programs, each in a fork of this process, which has imported the libraries: that saves seconds.

As many run at once as there are cores. Standard input: a JSON list of [arguments, text of standard input]. Standard
output: for each [exit code, standard output, standard error]. Nothing here may start JAX's backend, whose threads a
fork would lose.
"""

import gc
import json
import os
import runpy
import sys
import tempfile
import warnings

import lm.run  # noqa: F401  with all that the programs import, but not the programs, whose flags have the same names
import lm.training  # noqa: F401

calls, answers, running = json.load(sys.stdin), {}, {}
gc.freeze()  # children do not look through what was imported, and so need no copy of it
warnings.filterwarnings("ignore", message=r".*os\.fork\(\) was called")


def wait_for_one() -> None:
    child, status = os.wait()
    index, streams = running.pop(child)
    for stream in streams:
        stream.seek(0)
    answers[index] = [os.waitstatus_to_exitcode(status), *(stream.read().decode() for stream in streams[1:])]


for index, (arguments, given) in enumerate(calls):
    if len(running) == os.cpu_count():
        wait_for_one()
    streams = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  they live as long as the child
    streams[0].write(given.encode(errors="surrogateescape"))
    streams[0].seek(0)
    child = os.fork()
    if not child:
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        sys.argv = arguments
        break
    running[child] = index, streams
else:
    while running:
        wait_for_one()
    print(json.dumps([answers[index] for index in range(len(calls))]))
    sys.exit()

# Only children come here; what follows is the program, to the end of its process.
sys.stdin = os.fdopen(0)
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
