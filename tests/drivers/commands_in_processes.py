"""Commands of `senet` one after the other in a process that torchrun may have started, for tests/cli/test_processes.py.

commands_in_processes.py FOLDER   FOLDER/commands.json lists [name, words, ...]; writes FOLDER/said/NAME.RANK.json
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import torch

from senet.cli import main
from senet.detection import opening
from tiny_detectors import tiny_detector

torch.set_num_threads(1)
opening.open_any = lambda source: tiny_detector(box_score_thresh=0.2)  # whatever a folder that detects holds
folder, rank = Path(sys.argv[1]), int(os.environ.get("RANK", "0"))
(folder / "said").mkdir(exist_ok=True)
for name, *words in json.loads((folder / "commands.json").read_text()):
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        status = main(words)
    found = {"status": status, "stdout": said.getvalue(), "stderr": told.getvalue()}
    (folder / "said" / f"{name}.{rank}.json").write_text(json.dumps(found))
