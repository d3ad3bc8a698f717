"""Screen of a user: our own lines, progress on a terminal, one line for a mistake, and not what libraries say."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable

from edge_hadanorm.errors import UserError

DEBUG = "EDGE_HADANORM_DEBUG"
MISTAKE, CRASH, INTERRUPTED = 2, 1, 130
# Characters of either end of a message.
HALF = 300
# Parameters of the library that its messages name in backticks, as options of the commands.
OPTIONS = {
    "average_bits": "--average-bits",
    "backend": "--backend",
    "decode_tile": "--decode-tile",
    "device": "--device",
    "eta": "--eta",
    "force": "--force",
    "guidance": "--guidance",
    "guidance_steps": "--guidance-steps",
    "init": "--init FILE",
    "inputs": "--inputs FILE",
    "mask": "--mask",
    "negative": "--negative",
    "out": "--out",
    "precision": "--precision",
    "prompts": "--prompts FILE",
    "recipe": "--recipe",
    "reference": "--reference MODEL",
    "scheduler": "--scheduler",
    "seed": "--seed",
    "size": "--size",
    "steps": "--steps",
    "strength": "--strength",
    "target": "--target",
    "threads": "--threads",
    "with_encoder": "--with-encoder",
}
screen = sys.stderr


def silence_libraries() -> None:
    """Keep the warnings and log lines of imported libraries off the screen, native ones included.

    Some write to file descriptor 2 and some to sys.stderr, so both go to /dev/null, and our own lines to a copy of the
    old descriptor. EDGE_HADANORM_DEBUG=1 leaves everything as it is.
    """
    global screen
    if os.environ.get(DEBUG):
        return
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    os.environ |= {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore",
    }
    sys.stderr.flush()
    screen = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")  # a path may be no UTF-8
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    os.dup2(sys.stderr.fileno(), 2)


def progress(what: str) -> Callable[[Iterable], Iterable]:
    """A wrapper of iterables that shows a bar on a terminal and nothing in a pipe."""
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=what, leave=False, disable=not screen.isatty(), file=screen)


def say(line: str) -> None:
    """A line that is not the command's result."""
    print(line, file=screen)


def status(line: str) -> None:
    """Show what a long command is at, on a terminal; nothing in a pipe."""
    if screen.isatty():
        say(line)


def note(line: str) -> None:
    """A line that a user should read besides the command's result."""
    say(f"edge-hadanorm: {line}")


def as_options(text: str) -> str:
    """A message of the library in words of the command line: `inputs` is --inputs FILE."""
    return re.sub(r"`(\w+)`", lambda found: OPTIONS.get(found[1], found[0]), text)


def _line(text: str) -> str:
    """A message in one line; of a long one, as a name in a damaged file makes it, the beginning and the way out."""
    line = " ".join(text.split())
    return line if len(line) <= 2 * HALF else f"{line[:HALF]} ... {line[-HALF:]}"


def run(command: Callable[[], object]) -> int:
    """The exit status of a command: 0; 2 after one line for a user's mistake; 130 interrupted; 1 after a traceback."""
    import click

    try:
        command()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("edge-hadanorm: interrupted")
        return INTERRUPTED
    except (UserError, click.ClickException) as mistake:
        if os.environ.get(DEBUG):
            traceback.print_exc(file=screen)
        text = mistake.format_message() if isinstance(mistake, click.ClickException) else str(mistake)
        if isinstance(mistake, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # from click 8.2 on; before: Exit
            say(text)
            return MISTAKE
        if isinstance(mistake, click.UsageError) and mistake.ctx:
            text = f"{text.rstrip('.')}; see `{mistake.ctx.command_path} --help`"
        say(f"edge-hadanorm: {_line(as_options(text))}")
        return MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception:
        traceback.print_exc(file=screen)
        return CRASH
