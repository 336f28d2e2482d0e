"""Runs whose directories tests change."""

import json
import pathlib

from lm.config import Config, to_json
from lm.runs import workdir
from lm.runs.manifest import fingerprint_of


def edit(path: pathlib.Path, change) -> None:
    """Writes a JSON file anew, as `change` leaves it."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def reconfigured(run: pathlib.Path, config: Config) -> None:
    """Gives a run another configuration, as if it had been started with that one."""
    (run / "config.json").write_text(to_json(config))
    known = fingerprint_of(workdir._fixed(to_json(config)))
    edit(run / "manifest.json", lambda tree: [start.update(config=known) for start in tree["starts"]])
