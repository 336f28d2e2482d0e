"""Runs programs one after another, each in a fork of this process, which has imported the libraries: that saves seconds.

Standard input: a JSON list of [arguments, text of standard input]. Standard output: for each [exit code, standard
output, standard error]. Nothing here may start JAX's backend, whose threads a fork would lose.
"""

import contextlib
import json
import os
import runpy
import sys
import tempfile
import warnings

import lm.run  # noqa: F401  with all that the programs import, but not the programs, whose flags have the same names
import lm.training  # noqa: F401

answers = []
warnings.filterwarnings("ignore", message=r".*os\.fork\(\) was called")
for arguments, given in json.load(sys.stdin):
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(given.encode())
        streams[0].seek(0)
        child = os.fork()
        if not child:
            for number, stream in enumerate(streams):
                os.dup2(stream.fileno(), number)
            sys.argv = arguments
            break
        _, status = os.waitpid(child, 0)
        written = []
        for stream in streams[1:]:
            stream.seek(0)
            written.append(stream.read().decode())
        answers.append([os.waitstatus_to_exitcode(status), *written])
else:
    print(json.dumps(answers))
    sys.exit()

# Only children come here; what follows is the program, to the end of its process.
sys.stdin = os.fdopen(0)
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
