"""Long sequences: attention in parts keeps a program's memory near that of its weights."""

import json
import subprocess
import sys

import pytest
import torch

from edge_hadanorm.bench.case import HEADS, Case
from edge_hadanorm.bench.contenders import edge_program

MEGABYTE = 1e6
# In a process of its own, without this one's memory: the growth of the peak from the imports to the end of a step.
STEP = """
import json, re, sys
import torch
from executorch.runtime import Runtime

def memory(line):
    return 1024 * int(re.search(line + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

program, method, *inputs = sys.argv[1:]
inputs = [torch.load(file) for file in inputs]
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = memory("VmRSS")
loaded = Runtime.get().load_program(program)
step = loaded.load_method(method)
prediction = step.execute(inputs)[0]
print(json.dumps({"bytes": memory("VmHWM") - before, "finite": prediction.isfinite().all().item()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_of_4096_tokens_fits_in_the_weights_and_300_mb(tmp_path):
    """All heads' scores at once would take 1.07 GB."""
    case = Case(blocks=1, tokens=4096)
    assert 4 * HEADS * case.tokens**2 > 1000 * MEGABYTE
    program, inputs = edge_program(case, tmp_path, "hadanorm-balanced-w8a8")
    files = [tmp_path / f"{i}.pt" for i in range(len(inputs))]
    for file, tensor in zip(files, inputs, strict=True):
        torch.save(tensor, file)
    command = [sys.executable, "-c", STEP, program, "denoise", *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["finite"]
    assert measured["bytes"] < 1.5 * program.stat().st_size + 300 * MEGABYTE
