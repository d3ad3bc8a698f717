"""Steps from a quantized model to a bundle, and from a bundle to a picture: export, generate."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from PIL import Image

from edge_hadanorm import bundle as bundles
from edge_hadanorm import checkpoint, files
from edge_hadanorm.bundle import DECODER, Bundle
from edge_hadanorm.bundle.runner import ExecuTorchRunner, has_executorch, set_threads
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import targets
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.drawing import Original, Runner, Stopwatch, Wish, picture
from edge_hadanorm.pipelines.loading import latents_of
from edge_hadanorm.pipelines.pictures import Source, read_mask, read_picture, to_image
from edge_hadanorm.progress import Status, quiet
from edge_hadanorm.workflow.calibration_data import Prompts, prompt_list
from edge_hadanorm.workflow.quantizing import save
from edge_hadanorm.workflow.sampling_defaults import Sampling

BACKENDS = ("auto", "executorch", "simulation")
# Share of the steps of a picture that begins with another, where none is asked for: that of diffusers' pipelines.
STRENGTH = 0.6


def export(
    quantized: Checkpoint | str | Path,
    out: str | Path,
    *,
    target: str = "xnnpack",
    prompts: Prompts = (),
    decode_tile: int | None = None,
    precision: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    eta: float | None = None,
    scheduler: str | Path | None = None,
    guidance_steps: tuple[float, float] | None = None,
    size: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    with_encoder: bool = False,
    force: bool = False,
    status: Status = quiet,
) -> Bundle:
    """Export a quantized model to a bundle, which has all that a phone needs to draw.

    >>> bundle = edge_hadanorm.export("checkpoint", "bundle")
    >>> bundle.target, bundle.image_size
    ('xnnpack', (32, 32))

    quantized: a model or its folder. target: a name in `exporters.targets.TARGETS`. prompts: encode these here, and
    leave the text encoders out. decode_tile: side of the square of latents that is decoded at once where they are more,
    64 by default. precision: of the floats in a program, where the target leaves a choice. steps, guidance, negative,
    eta, scheduler: defaults of the bundle, see `sampling_defaults.Sampling`; None: the checkpoint's. guidance_steps:
    shares of the steps, from and to, that guidance is for, (0.0, 0.6) for the first 60 %; the others take the text's
    prediction alone. size: width and height of pictures in pixels, by default the checkpoint's; of several, which share
    their weights, the first is the bundle's default. with_encoder: add the image encoder, for pictures that begin with
    another; models of pixels need none. force: replace an earlier bundle. status: is told what is being done. Raises
    UserError for what the target cannot have, and then nothing is left at `out`.
    """
    from edge_hadanorm.exporters import writer  # with it come the targets' tools, which take seconds

    others: dict[str, Denoiser] = {}
    options = targets.Options(tuple(prompt_list(prompts)), decode_tile, precision, guidance_steps, with_encoder)
    wanted = Sampling(steps, guidance, negative, eta, scheduler)
    with _as_folder(quantized) as (source, saved):
        if saved.pipeline is not None:
            denoiser, pipeline = saved.denoiser, saved.pipeline
            denoisers = {wide: denoiser.resized(*latents_of(wide, pipeline)) for wide in _sizes(size)}
            denoiser = next(iter(denoisers.values()), denoiser)
            others = {bundles.size_name(*wide): made for wide, made in [*denoisers.items()][1:]}
            pipeline = wanted.of(pipeline.of_tokens(denoiser.image_tokens()))
            saved = replace(saved, denoiser=denoiser, pipeline=pipeline)
            if guidance_steps is not None:  # what are no shares is refused before programs are lowered, for minutes
                pipeline.plan(pipeline.steps).guided_between(*guidance_steps)
        elif given := [
            *wanted.given,
            *_named(guidance_steps=guidance_steps, size=size or None, with_encoder=with_encoder or None),
        ]:
            raise UserError(f"{source} is a transformer alone, which samples nothing: leave out `{given[0]}`")
        targets.check_target(target, saved, precision)
        if source.resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
            raise UserError(f"{out} is the checkpoint {source}, or lies in it; export to a folder of its own")
        with files.new_folder(out, force) as folder:
            writer.write_bundle(folder, source, saved, target, status, options, others)
    return bundles.load(Path(out))


def _sizes(size: tuple[int, int] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Sizes that are asked for, each once."""
    if not size:
        return []
    several = cast(Sequence[tuple[int, int]], (size,) if isinstance(size[0], int) else size)
    return list(dict.fromkeys((width, height) for width, height in several))


def _named(**options: object) -> list[str]:
    """Names of the options that are given."""
    return [name for name, value in options.items() if value is not None]


@contextmanager
def _as_folder(quantized: Checkpoint | str | Path) -> Iterator[tuple[Path, Checkpoint]]:
    """A quantized model and the folder that it lies in, a temporary one for a model in memory."""
    if not isinstance(quantized, Checkpoint):
        yield Path(quantized), checkpoint.load(Path(quantized))
        return
    with tempfile.TemporaryDirectory(prefix="edge-hadanorm-") as parent:
        folder = Path(parent) / "checkpoint"
        save(quantized, folder)
        yield folder, checkpoint.load(folder)


@dataclass(frozen=True)
class Generated:
    """A picture of a bundle. milliseconds: the median of a step, None where there was one step. backend: who drew."""

    image: Image.Image
    milliseconds: float | None
    backend: str


def generate(
    bundle: Bundle | str | Path,
    prompt: str,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    guidance_steps: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
    init: Source | None = None,
    strength: float | None = None,
    mask: Source | None = None,
    backend: str = "auto",
    threads: int | None = None,
    status: Status = quiet,
) -> Generated:
    """Draw a prompt with a bundle, as a phone would; with `out`, write the picture as PNG too.

    >>> edge_hadanorm.generate("bundle", "red apple", seed=7).image.size
    (32, 32)

    bundle: what `export` returns, or its folder. seed: of the noise. steps, guidance, negative: by default the
    bundle's. guidance_steps: shares of the steps, from and to, that guidance is for; by default as the bundle has it.
    size: width and height in pixels, one of the bundle's, by default its first.
    init: a picture to begin with, cut to the bundle's proportions. strength: share of the steps that are taken then,
    above 0 and at most 1, by default 0.6; the more, the less is left of it. mask: a picture of what to draw anew,
    white, and what to keep of `init`, black.
    backend: executorch, simulation (in PyTorch, of the checkpoint in the bundle), or auto: the runtime, if there is one
    here for the bundle's target. threads: of the runtime. status: is told where there is no runtime.

    Raises UserError for a broken bundle and an impossible wish.
    """
    loaded = bundle if isinstance(bundle, Bundle) else bundles.load(Path(bundle))
    loaded = loaded if size is None else loaded.at(size)
    sampling = loaded.sampling
    if out is not None and Path(out).suffix.lower() != ".png":
        raise UserError(f"{out} is no .png: pictures are written as PNG")
    if threads is not None:
        set_threads(threads)
    plan = loaded.plan(sampling["plan"] if steps is None else steps)
    if guidance_steps is not None:
        plan = plan.guided_between(*guidance_steps)
    default = sampling["guidance"] if plan.guidance is None else plan.guidance
    original = _original(loaded, init, mask)
    if original is not None:
        plan = plan.begun(STRENGTH if strength is None else strength)
    elif given := _named(strength=strength, mask=mask):
        raise UserError(f"`{given[0]}` is for a picture to begin with: give one as `init`")
    wish = Wish(
        prompt,
        plan,
        default if guidance is None else guidance,
        seed,
        sampling["negative"] if negative is None else negative,
        original,
    )
    plan.at(wish.guidance)  # refuses what it cannot have, before programs are loaded
    backend = _pick_backend(loaded, backend, status)
    runner = _runner(loaded, backend)
    watch = Stopwatch()
    with files.new_file(out) if out is not None else nullcontext() as file:
        image = to_image(picture(runner, wish, watch))
        if file is not None:
            image.save(file, format="PNG")
    return Generated(image, watch.milliseconds, backend)


def _original(loaded: Bundle, init: Source | None, mask: Source | None) -> Original | None:
    """Read what a picture begins with. Raises UserError where it is no picture, or nothing could encode it."""
    if init is None:
        return None
    if DECODER in loaded.programs:
        _ = loaded.encode_window  # refuses where there is no encoder, before anything is loaded
    elif (channels := loaded.latent_shape[0]) != 3:
        raise UserError(f"bundle {loaded.folder} draws in {channels} channels: no picture in colours can begin one")
    size = loaded.image_size
    return Original(read_picture(init, size), None if mask is None else read_mask(mask, size))


def _pick_backend(loaded: Bundle, backend: str, status: Status) -> str:
    """The backend that a bundle is drawn with here. Raises UserError where the one asked for cannot."""
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}; backends: {', '.join(BACKENDS)}")
    foreign = not targets.runs_here(loaded.target)
    if backend == "auto" and not foreign and not has_executorch():
        status("no ExecuTorch runtime here (pip install executorch): simulating in PyTorch")
    if backend == "auto":
        return "executorch" if has_executorch() and not foreign else "simulation"
    if backend == "executorch" and foreign:
        hardware = targets.row(loaded.target).hardware
        raise UserError(
            f"bundle {loaded.folder} is for {loaded.target}, which runs on {hardware}: take `backend` simulation"
        )
    if backend == "executorch" and not has_executorch():
        raise UserError("no ExecuTorch runtime here: pip install executorch, or take `backend` simulation")
    return backend


def _runner(loaded: Bundle, backend: str) -> Runner:
    return ExecuTorchRunner(loaded) if backend == "executorch" else targets.simulation(loaded)
