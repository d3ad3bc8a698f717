"""What `edge-hadanorm inspect` says of a folder: a float model, a checkpoint or a bundle."""

from pathlib import Path

from torch import nn

from edge_hadanorm import bundle, checkpoint
from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.schema import MANIFEST
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.measure.sizes import bits_summary
from edge_hadanorm.method.cost import linear_cost
from edge_hadanorm.method.fold import Producer
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.method.recipe import Recipe
from edge_hadanorm.pipelines import loading
from edge_hadanorm.pipelines.loading import FloatModel
from edge_hadanorm.tables import Row, table

# A vocabulary that can be listed.
WORDS = 2000
LINEAR_HEADER = ("linear", "shape", "grids", "scale", "folded offline", "online", "online cost %", "SQNR dB")


def describe(path: Path) -> str:
    """The description of a bundle, a checkpoint or a float model, by what the folder holds."""
    if (path / MANIFEST).exists():
        return describe_bundle(bundle.load(path))
    if (path / "recipe.json").exists():
        metrics = path / "metrics.json"
        return describe_checkpoint(checkpoint.load(path), read_json(metrics, "metrics") if metrics.exists() else {})
    if not path.exists() and str(path) != "reference":
        raise UserError(f"{path} does not exist: give a bundle, a checkpoint, a model folder or 'reference'")
    return describe_source(loading.load(str(path)))


def describe_source(model: FloatModel) -> str:
    """Sizes, and what of a float model a recipe would quantize."""
    names = model.denoiser.quantizable()
    total = sum(p.numel() for p in model.denoiser.parameters())
    rows = [(name, _shape(model.denoiser.get_submodule(name).weight.shape)) for name in names]
    quantized = sum(model.denoiser.get_submodule(name).weight.numel() for name in names)
    head = f"float model {model.name}: {model.denoiser.source_class}, {total:,} parameters, {quantized:,} quantizable"
    return "\n".join([head, "", table(("linear", "shape"), rows), *_words(model.pipeline)])


def describe_checkpoint(saved: Checkpoint, metrics: dict) -> str:
    """The transform and the bits of every quantized linear."""
    bits = bits_summary(saved.denoiser)
    lines = [
        f"checkpoint {saved.recipe.name} of {saved.source} ({saved.denoiser.source_class})",
        f"quantized: {bits['quantized_parameters']:,} parameters, {bits['quantized_bytes'] / 1e6:.2f} MB, "
        f"{bits['bytes_per_quantized_parameter']:.3f} bytes each; rest: {bits['rest_bytes'] / 1e6:.2f} MB",
    ]
    if metrics.get("denoiser_sqnr_db") is not None:
        pictures = _decibel(metrics["image_psnr_db"])
        lines.append(f"denoiser SQNR {_decibel(metrics['denoiser_sqnr_db'])} dB, pictures {pictures} dB PSNR")
    rows = linear_rows(saved.denoiser, metrics.get("layers", {}))
    return "\n".join([*lines, "", table(LINEAR_HEADER, rows), *_words(saved.pipeline)])


def linear_rows(denoiser: nn.Module, layers: dict[str, float | None]) -> list[Row]:
    """A row under LINEAR_HEADER for every quantized linear. layers: SQNR in dB by name, as far as it was measured."""
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
    """Programs, what of them runs in the backend's delegate, inputs and outputs."""
    manifest = loaded.manifest
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    width, height = loaded.image_size
    lines = [
        f"bundle {loaded.recipe} for {manifest['target']} ({manifest['family']}), pictures of {width}x{height}",
        f"{len(manifest['files'])} files, {size / 1e6:.1f} MB, all verified",
    ]
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
    """What the methods of a manifest's programs are given and give."""
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


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _grids(linear: QuantizedLinear) -> str:
    recipe = linear.recipe
    groups = f" g{recipe.group_size}" if recipe.group_size else ""
    branch = "" if linear.low_rank is None else f" + rank {len(linear.low_rank.down)}"
    clip = "" if recipe.activation_clip == 1 else f", clip {recipe.activation_clip:g}"
    return f"w{recipe.weight_bits}a{recipe.activation_bits}{groups} per {recipe.activations}{clip}{branch}"


def _scale(recipe: Recipe) -> str:
    """The rule of an input's scale, and what it shares between input and weight."""
    share = {"smoothquant": f" {recipe.alpha:g}", "balanced": f" {recipe.exponent:g}"}
    return "-" if recipe.scale == "none" else recipe.scale + share.get(recipe.scale, "")


def _folding(linear: QuantizedLinear, producer: Producer | None) -> tuple[str, str]:
    """What of the input's transform went offline into the layer before, and what the device computes."""
    absorbed = linear.absorbed.steps()
    offline = f"{', '.join(absorbed)} into {producer.name}" if absorbed else "-"
    return offline, ", ".join(linear.transform.steps()) or "-"


def _delegation(account: dict | None) -> Row:
    """A method's account from the target's writer; the schema asks for none, and another writer's bundle has none.

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
    """Of many tensors the first three and the last, and between them a row that says how many are left out."""
    return tensors if len(tensors) <= 6 else [*tensors[:3], (f"... {len(tensors) - 4} more", "", ""), tensors[-1]]


def _words(pipeline) -> list[str]:
    if pipeline is None:
        return []
    if pipeline.labels is not None:
        return ["", f"prompts: one of {len(pipeline.labels)} classes: {', '.join(pipeline.labels)}"]
    tokenizer = next(iter(pipeline.tokenizers.values()))
    if tokenizer.unknown_id is None or tokenizer.size > WORDS:
        return ["", f"prompts: at most {tokenizer.length} tokens"]
    words = [word for word in tokenizer.words() if word.isalnum()]
    return ["", f"prompts: at most {tokenizer.length} of {len(words)} words: {', '.join(words)}"]
