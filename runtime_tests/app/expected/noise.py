"""The bits of noise.py: seeds and streams of every kind, counts around the size of a block, a large one."""

from pathlib import Path

from edge_hadanorm.pipelines.noise import normal, philox
from runtime_tests.app.expected.files import numbers, write

SEEDS = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1)
STREAMS = (0, 1, 2**32 - 1)
COUNTS = (1, 2, 3, 4, 5, 7, 3072)
LARGE = 1_000_003


def make(folder: Path) -> None:
    asked = [(seed, stream, count) for seed in SEEDS for stream in STREAMS for count in COUNTS]
    cases = []
    for seed, stream, count in [*asked, (7, 0, LARGE), (2**63 - 1, 3, LARGE)]:
        file = numbers(folder / f"{len(cases)}.f32", normal(seed, count, stream))
        words = philox(seed, 4, stream).tolist()
        cases.append({"seed": seed, "stream": stream, "count": count, "file": file, "words": words})
    write(folder / "cases.json", cases)
