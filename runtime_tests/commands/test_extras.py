"""Who installs no extra quantizes all the same, and is told which extra a command needs."""

import subprocess
import sys

import pytest

# By extra, the packages that it brings.
EXPORT = ("executorch", "torchao")
COREML = ("coremltools",)
REPORT = ("matplotlib", "jinja2")


def without(packages: tuple[str, ...], script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script's run in a process in which these packages cannot be imported."""
    finders = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {packages!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
    return subprocess.run([sys.executable, "-c", finders + script, *arguments], capture_output=True, text=True)


COMMAND = "from edge_hadanorm.cli import main\nmain()"


def test_quantizing_needs_no_extra(tiny_pipeline, tmp_path):
    script = """
import edge_hadanorm
quantized = edge_hadanorm.quantize(sys.argv[1], "hadanorm-balanced-w4a8", sys.argv[2], sys.argv[3:], steps=2)
print(quantized.metrics["denoiser_sqnr_db"] > 0, edge_hadanorm.load_checkpoint(sys.argv[2]).recipe.name)
"""
    done = without(
        (*EXPORT, *COREML, *REPORT), script, str(tiny_pipeline), str(tmp_path / "checkpoint"), "red a", "blue b"
    )
    assert done.stdout == "True hadanorm-balanced-w4a8\n", done.stderr


@pytest.mark.parametrize(
    ("line", "missing", "extra"),
    [
        ("report {checkpoint} --out {out}", "jinja2", "report"),
        ("report {checkpoint} --out {out}", "matplotlib", "report"),
        ("demo --out {out}", "matplotlib", "dev"),
        ("bench --quick", "matplotlib", "bench"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(line, missing, extra, tiny_checkpoint, tmp_path):
    words = line.format(checkpoint=tiny_checkpoint("rtn-w8a8"), out=tmp_path / "out.html").split()
    done = without((missing,), COMMAND, *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"needs {missing}, which is not here: pip install 'edge-hadanorm[{extra}]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
