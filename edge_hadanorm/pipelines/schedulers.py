"""Schedulers of diffusers by their configs: of a pipeline's folder, or another that the user gives."""

import inspect
from pathlib import Path
from typing import Any

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json


def read_scheduler(file: Path) -> dict:
    """Read a scheduler_config.json. Raises UserError where it is none."""
    config = read_json(file, "scheduler config")
    if not isinstance(config, dict):
        raise UserError(f"scheduler config {file} names no scheduler of diffusers: it is no object; copy it again")
    return config | {"_file": str(file)}


def given_scheduler(scheduler: str | Path, own: dict) -> dict:
    """Make the config of a scheduler that the user gives: a scheduler_config.json, its folder, or a class of diffusers.

    own: the config of the scheduler whose place it takes. A class is given the settings of it that it knows too, as
    diffusers' `from_config` does. Raises UserError for what is neither.
    """
    path = Path(scheduler)
    if path.is_dir():
        path = path / "scheduler_config.json"
        if not path.exists():
            raise UserError(
                f"`scheduler` {scheduler} is a folder without scheduler_config.json; give a scheduler's own"
            )
    if path.exists():
        config = read_scheduler(path)
        make_scheduler(config)
        return config
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"`scheduler` {scheduler} does not exist; give a scheduler_config.json or a class of diffusers")
    named = {"_class_name": str(scheduler), "_file": str(scheduler)}
    known = inspect.signature(_class(named).__init__).parameters
    settings = {name: value for name, value in own.items() if name in known}
    return dict(make_scheduler(settings | named).config) | named


def written(config: dict) -> dict:
    """The config as its file has it."""
    return {name: value for name, value in config.items() if name != "_file"}


def make_scheduler(config: dict) -> Any:
    """Make the scheduler of a config. Raises UserError for what is none of diffusers' and for a setting it refuses."""
    scheduler = _class(config)
    try:
        return scheduler.from_config(written(config))
    except Exception as error:  # a scheduler may fail in any way on a setting that it does not know
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"scheduler config {config.get('_file')} is not one of {scheduler.__name__}: {reason}; copy it again"
        ) from None


def _class(config: dict) -> Any:
    import diffusers

    name = config.get("_class_name")
    scheduler = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(scheduler, type) or not issubclass(scheduler, diffusers.SchedulerMixin):
        raise UserError(f"scheduler config {config.get('_file')} names {name!r}, which is no scheduler of diffusers")
    return scheduler
