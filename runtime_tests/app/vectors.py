"""What Python says, for the tests of the Java core: python -m runtime_tests.app.vectors OUT

OUT becomes a folder of JSON and raw little-endian numbers, made by edge_hadanorm itself. The tests read its path from
the system property `vectors`. It is made anew for every check and never committed, so it cannot be stale.
"""

import sys
import time

from edge_hadanorm.files import new_folder, write_json
from runtime_tests.app.expected import bundles, loops, noise, pictures, plans, sizes, tokens

MAKERS = {
    "noise": noise.make,
    "plans": plans.make,
    "pictures": pictures.make,
    "loops": loops.make,
    "sizes": sizes.make,
    "bundles": bundles.make,
    "tokens": tokens.make,
}


def main(out: str) -> None:
    with new_folder(out, force=True) as folder:
        seconds = {}
        for name, make in MAKERS.items():
            start = time.perf_counter()
            (folder / name).mkdir()
            make(folder / name)
            seconds[name] = round(time.perf_counter() - start, 2)
        write_json(folder / "manifest.json", {"seconds": seconds})  # what `new_folder` knows its own folders by


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m runtime_tests.app.vectors OUT")
    main(sys.argv[1])
