"""Descriptions of a folder for people: a float model, a checkpoint or a bundle."""

from pathlib import Path

from edge_hadanorm import bundle, checkpoint
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.schema import MANIFEST
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_object
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.cost import linear_cost
from edge_hadanorm.method.fold import Producer
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.pipelines.text_to_image import TextToImage
from edge_hadanorm.tables import Row, table

# Size of the largest vocabulary that is listed.
WORDS = 2000
LINEAR_HEADER = ("linear", "shape", "grids", "scale", "folded offline", "online", "online cost %", "SQNR dB")


def describe(path: Path) -> str:
    """Describe a folder: a bundle, a checkpoint or a float model. Raises UserError for another folder."""
    if (path / MANIFEST).exists():
        return describe_bundle(bundle.load(path))
    if (path / "recipe.json").exists():
        metrics = path / "metrics.json"
        return describe_checkpoint(checkpoint.load(path), read_object(metrics, "metrics") if metrics.exists() else {})
    if not path.exists() and str(path) != "reference":
        raise UserError(f"{path} does not exist: give a bundle, a checkpoint, a model folder or 'reference'")
    return describe_float_model(loading.load(str(path)))


def describe_float_model(model: FloatModel) -> str:
    """Describe a float model: its sizes, and the linears that a recipe would quantize."""
    names = model.denoiser.quantizable()
    total = sum(p.numel() for p in model.denoiser.parameters())
    weights = {name: model.denoiser.get_parameter(f"{name}.weight") for name in names}
    rows = [(name, _shape(weight.shape)) for name, weight in weights.items()]
    quantized = sum(weight.numel() for weight in weights.values())
    head = f"float model {model.name}: {model.denoiser.source_class}, {total:,} parameters, {quantized:,} quantizable"
    return "\n".join([head, *_defaults(model.pipeline), "", table(("linear", "shape"), rows), *_words(model.pipeline)])


def describe_checkpoint(saved: Checkpoint, metrics: dict) -> str:
    """Describe a checkpoint: the transform and the bits of every quantized linear, and what was measured."""
    bits = bits_summary(saved.denoiser)
    lines = [
        f"checkpoint {saved.recipe.name} of {saved.source} ({saved.denoiser.source_class})",
        f"quantized: {bits['quantized_parameters']:,} parameters, {bits['quantized_bytes'] / 1e6:.2f} MB, "
        f"{bits['bytes_per_quantized_parameter']:.3f} bytes each; rest: {bits['rest_bytes'] / 1e6:.2f} MB",
    ]
    if metrics.get("denoiser_sqnr_db") is not None:
        pictures = _decibel(metrics["image_psnr_db"])
        lines.append(f"denoiser SQNR {_decibel(metrics['denoiser_sqnr_db'])} dB, pictures {pictures} dB PSNR")
    lines += _defaults(saved.pipeline)
    rows = linear_rows(saved.denoiser, metrics.get("layers", {}))
    return "\n".join([*lines, "", table(LINEAR_HEADER, rows), *_words(saved.pipeline)])


def linear_rows(denoiser: Denoiser, layers: dict[str, float | None]) -> list[Row]:
    """Make a row under LINEAR_HEADER for every quantized linear. layers: SQNR in dB by name, where it was measured."""
    producers = denoiser.producers()
    return [
        (
            name,
            _shape(linear.shape),
            _grids(linear),
            _scale(linear.recipe),
            *_folding(linear, producers.get(name)),
            f"{100 * linear_cost(linear):.0f}",
            _decibel(layers.get(name)),
        )
        for name, linear in denoiser.named_modules()
        if isinstance(linear, QuantizedLinear)
    ]


def describe_bundle(loaded: Bundle) -> str:
    """Describe a bundle: its programs, their shares in the backend's delegate, inputs and outputs."""
    manifest = loaded.manifest
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    pictures = ", ".join(bundle.size_name(*size) for size in loaded.sizes)
    lines = [
        f"bundle {loaded.recipe} for {manifest['target']} ({manifest['family']}), pictures of {pictures}",
        f"{len(manifest['files'])} files, {size / 1e6:.1f} MB, all verified",
    ]
    if needed := bundle.peak_memory(manifest):
        less = bundle.peak_memory(manifest, packed_in_file=True) or 0
        lines.append(f"a picture needs {needed / 1e6:.0f} MB of memory, {less / 1e6:.0f} with packed weights in a file")
    if manifest["sampling"]:
        lines.append(_sampling(loaded))
    if golden := loaded.golden:
        lines.append(f"golden sample: {golden['prompt']!r}, seed {golden['seed']}, at least {golden['psnr_db']} dB")
    for program in loaded.programs.values():
        if "precision" in program:
            target = program["minimum_deployment_target"]
            lines.append(f"{program['file']}: {target} or later, floats in {program['precision']}")
        lines += program.get("notes", [])
    header = ("program", "method", "delegate calls", "integer linears", "float linears", "outside the delegate")
    rows = [
        (signature.get("package", program["file"]), method, *_delegation(signature.get("delegation")))
        for program in loaded.programs.values()
        for method, signature in program["methods"].items()
    ]
    return "\n".join([*lines, "", table(header, rows), "", tensor_table(loaded.programs)])


def tensor_table(programs: dict[str, dict]) -> str:
    """List the inputs and outputs of the programs in a manifest."""
    rows = [
        (method, way, *cells)
        for program in programs.values()
        for method, signature in program["methods"].items()
        for way in ("inputs", "outputs")
        for cells in _shortened(
            [(tensor["name"], tensor["dtype"], "x".join(map(str, tensor["shape"]))) for tensor in signature[way]]
        )
    ]
    return table(("method", "", "tensor", "dtype", "shape"), rows)


def _defaults(pipeline: TextToImage | None) -> list[str]:
    """How a pipeline samples where nothing else is asked for, in a line; none for a transformer alone."""
    if pipeline is None:
        return []
    noise = f", share of noise {pipeline.eta:g}" if pipeline.eta else ""
    wanted = _guidance(pipeline.guidance, pipeline.negative)
    return [f"sampling: {pipeline.steps} steps of {pipeline.scheduler['_class_name']}{noise}, {wanted}"]


def _sampling(loaded: Bundle) -> str:
    """The defaults of a bundle, and the plans that there are."""
    sampling = loaded.sampling
    plan, names = sampling["plan"], list(sampling["plans"])
    counts = sorted(int(name) for name in names if name.isdecimal())
    steps = [f"{counts[0]} to {counts[-1]} steps" if len(counts) > 1 else f"{counts[0]} steps"] if counts else []
    plans = ", ".join([*steps, *(repr(name) for name in names if not name.isdecimal())])
    default = f"{plan} steps" if plan.isdecimal() else f"plan {plan!r} of {loaded.plan(plan).steps} steps"
    return f"sampling: {default}, {_guidance(sampling['guidance'], sampling['negative'])}; plans of {plans}"


def _guidance(guidance: float, negative: str) -> str:
    return f"guidance {guidance:g}" + (f", negative prompt {negative!r}" if negative else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _grids(linear: QuantizedLinear) -> str:
    recipe = linear.recipe
    groups = f" g{recipe.group_size}" if recipe.group_size else ""
    branch = "" if linear.low_rank is None else f" + rank {recipe.rank}"
    clip = "" if recipe.activation_clip == 1 else f", clip {recipe.activation_clip:g}"
    return f"w{recipe.weight_bits}a{recipe.activation_bits}{groups} per {recipe.activations}{clip}{branch}"


def _scale(recipe: Recipe) -> str:
    """Name the rule of an input's scale, and the exponent that shares it between input and weight."""
    share = {"smoothquant": f" {recipe.alpha:g}", "balanced": f" {recipe.exponent:g}"}
    return "-" if recipe.scale == "none" else recipe.scale + share.get(recipe.scale, "")


def _folding(linear: QuantizedLinear, producer: Producer | None) -> tuple[str, str]:
    """List the steps of an input's transform: those in the layer before, and those that the device computes."""
    absorbed = linear.absorbed.steps()
    offline = f"{', '.join(absorbed)} into {producer.name}" if absorbed and producer else "-"
    return offline, ", ".join(linear.transform.steps()) or "-"


def _delegation(account: dict | None) -> Row:
    """Make cells of a method's account by the target's writer, which another writer's bundle may lack.

    Linears with integer weights alone, which the account of a Core ML program counts apart, are computed in float.
    """
    if account is None:
        return ("?",) * 4
    outside = ", ".join(f"{count} x {operator}" for operator, count in account["outside"].items()) or "nothing"
    floats = account["float_linears"] + account.get("coded_linears", 0)
    return account["delegates"], account["integer_linears"], floats, outside


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _shortened(tensors: list[Row]) -> list[Row]:
    """Leave out the middle of many tensors, with a row that says how many are missing."""
    return tensors if len(tensors) <= 6 else [*tensors[:3], (f"... {len(tensors) - 4} more", "", ""), tensors[-1]]


def _words(pipeline: TextToImage | None) -> list[str]:
    if pipeline is None:
        return []
    if pipeline.labels is not None:
        return ["", f"prompts: one of {len(pipeline.labels)} classes: {', '.join(pipeline.labels)}"]
    tokenizer = next(iter(pipeline.tokenizers.values()))
    if tokenizer.unknown_id is None or tokenizer.size > WORDS:
        return ["", f"prompts: at most {tokenizer.length} tokens"]
    words = [word for word in tokenizer.words() if word.isalnum()]
    return ["", f"prompts: at most {tokenizer.length} of {len(words)} words: {', '.join(words)}"]
