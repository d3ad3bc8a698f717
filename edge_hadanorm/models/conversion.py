"""A transformer's state dict into a denoiser's: what the families' conversions have in common."""

from collections.abc import Mapping

import torch

from edge_hadanorm.errors import UserError

# Weight and bias of a linear.
Pair = tuple[torch.Tensor, torch.Tensor | None]


class StateDictReader:
    """A transformer's state dict on its way into a denoiser's; every tensor of it has to be taken, with its shape."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self.tensors = tensors
        self.taken: set[str] = set()

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Raises UserError where a tensor is missing or has another shape."""
        if name not in self.tensors:
            raise UserError(f"transformer weights: tensor {name!r} is missing; the file is not of this config")
        tensor = self.tensors[name]
        if (found := tuple(tensor.shape)) != shape:
            raise UserError(f"transformer weights: {name!r} has shape {list(found)}, the config asks for {list(shape)}")
        self.taken.add(name)
        return tensor

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Pair:
        """Weight and bias of a linear, a bias of None where it has none."""
        return self.take(f"{name}.weight", rows, columns), self.take(f"{name}.bias", rows) if bias else None

    def check_all_taken(self, *but: str) -> None:
        """Raises UserError where a tensor is left, except for those named."""
        if foreign := sorted(set(self.tensors) - self.taken - set(but)):
            raise UserError(f"transformer weights: unknown tensor {foreign[0]!r}; the file is not of this config")


def check_sizes(config: dict, *keys: str) -> None:
    """Raises UserError where one of these config values is no positive whole number."""
    for key in keys:
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"transformer config: {key!r} is {config.get(key)!r}, not a positive whole number")


def check_fixed(config: dict, fixed: dict) -> None:
    """Raises UserError where a config value is another than the one that a form covers."""
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise UserError(f"transformer config: {key} is {config[key]!r}; only {value!r} is supported")


class Conversion(StateDictReader):
    """Tensors that are taken from a transformer, and the `state` of a denoiser that they are put into."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__(tensors)
        self.state: dict[str, torch.Tensor] = {}

    def put(self, target: str, *pairs: Pair) -> None:
        """The linear `target`, which computes all of these on one input."""
        weights, biases = zip(*pairs, strict=True)
        self.state[f"{target}.weight"] = torch.cat(weights).contiguous()
        if biases[0] is not None:
            self.state[f"{target}.bias"] = torch.cat(biases).contiguous()

    def put_embedding(self, prefix: str, source: str, width: int, inner: int) -> None:
        """The two linears that embed `inner` features, of a timestep or a text."""
        self.put(f"{prefix}up", self.linear(f"{source}.linear_1", width, inner))
        self.put(f"{prefix}down", self.linear(f"{source}.linear_2", width, width))

    def put_feed_forward(self, target: str, source: str, width: int) -> None:
        """Put a feed-forward of `width` features, with four times as many within."""
        self.put(f"{target}.up", self.linear(f"{source}.net.0.proj", 4 * width, width))
        self.put(f"{target}.down", self.linear(f"{source}.net.2", width, 4 * width))

    def put_patches(self, source: str, width: int, channels: int, patch: int) -> None:
        """The convolution that makes tokens of patches."""
        weight = self.take(f"{source}.weight", width, channels, patch, patch)
        self.put("patch_embed", (weight, self.take(f"{source}.bias", width)))

    def put_constants(self, **constants: torch.Tensor) -> None:
        """Tensors that no state dict has, in the dtype of the weights."""
        dtype = self.state["final.weight"].dtype
        self.state.update({name: tensor.to(dtype) for name, tensor in constants.items()})


def scaled(pair: Pair, factor: torch.Tensor | float) -> Pair:
    """A linear whose outputs are multiplied with a number or a factor [m] each."""
    weight, bias = pair
    return (weight.T * factor).T, None if bias is None else bias * factor


def add_ones(pair: Pair, *scales: int) -> Pair:
    """A linear of parts as wide as its input, with 1 added to those that are scales."""
    weight, bias = pair
    bias = weight.new_zeros(len(weight)) if bias is None else bias.clone()
    bias.view(-1, weight.shape[1])[list(scales)] += 1
    return weight, bias


def cut_variance(pair: Pair, channels: int, out: int) -> Pair:
    """A last linear of `out` channels, in rows of (patch row, patch column, channel), without those past the latents'.

    They are a learned variance.
    """
    weight, bias = pair
    keep = torch.arange(len(weight)).reshape(-1, out)[:, :channels].flatten()
    return weight[keep], None if bias is None else bias[keep]
