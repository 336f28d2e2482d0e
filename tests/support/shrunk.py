"""The program that runs as `python` in the blocks of documentation pages: it makes every training small.

`python -P shrunk.py SOCKET` imports the libraries once and listens. For each connection it forks a process that becomes
the program which the `python` of a block was asked to run.
"""

import dataclasses
import gc
import json
import os
import re
import socket
import sys

import jax
from support.forked import become

from lm.config import Config, changed
from lm.lab import pretraining
from lm.tinyworld import tinyworld
from lm.training import loop

SMALL = {
    "training.steps": 4,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.eval_examples": 4,
    "optimizer.warmup": 0,
    "data.batch_size": 8,
    "data.buckets": 1,
    "model.embed_dim": 16,
    "model.hidden_dim": 16,
    "model.layers": 1,
}
WINDOW, PIECES, FEW = 32, 400, 1_000  # a vocabulary above FEW has PIECES; TinyWorld's own has 900
EXAMPLES = {"train": 600, "validation": 32, "test": 32}  # of each data set of TinyWorld, if a source names no numbers


def small(config: Config) -> Config:
    """Returns a configuration that trains in a second."""
    data = {"data.window": min(config.data.window, WINDOW)}
    if config.data.tokenizer.kind in ("unigram", "bpe") and config.data.tokenizer.vocab_size > FEW:
        data["data.tokenizer.vocab_size"] = PIECES
    return changed(config, SMALL | data)


def shrink() -> None:
    """Replaces the function that trains, the tasks of a pipeline by the first of them, and the sizes of TinyWorld."""
    train, planned = loop.train, pretraining.planned
    loop.train = lambda config, *rest, **named: train(small(config), *rest, **named)
    pretraining.planned = lambda file: one_task(planned(file))
    for config in tinyworld.Tinyworld.BUILDER_CONFIGS:
        config.sizes.update(EXAMPLES)


def one_task(plan: pretraining.Plan) -> pretraining.Plan:
    """Returns a pipeline with the first task of a plan, and the stages that it needs."""
    task, start = next(iter(plan.tasks.items()))
    before = {start: plan.before[start]} if start in plan.before else {}
    return dataclasses.replace(plan, tasks={task: start}, before=before, writes={})


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Becomes the program, to the end of this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  those of Python fit other files
    if "JAX_NUM_CPU_DEVICES" in environment:  # JAX read its variables when it was imported
        jax.config.update("jax_num_cpu_devices", int(environment["JAX_NUM_CPU_DEVICES"]))
    arguments = [re.sub(r"^(--seeds=\d+),.*", r"\1", argument) for argument in arguments]  # a seed is enough
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], os.environ.get("DOCS_PAGE", "-c"), "exec"), {"__name__": "__main__"})
        sys.exit()
    become(arguments)


def main(path: str) -> None:
    shrink()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        request, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
        child = os.fork()
        if not child:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            return run(*json.loads(request))
        _, status = os.waitpid(child, 0)
        connection.send(str(os.waitstatus_to_exitcode(status) % 256).encode())
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
