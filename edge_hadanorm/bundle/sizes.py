"""Sizes of a bundle: its manifest, which is that of the default size, as it is for another."""

from edge_hadanorm.errors import UserError


def size_name(width: int, height: int) -> str:
    """Name a size in pixels as the manifest does: 768x512."""
    return f"{width}x{height}"


def at(manifest: dict, name: str) -> dict:
    """Make the manifest of one of its `sizes` alone.

    The methods of that size stand where those of the default size stood; `name` says what each is called in its
    program. The golden sample is of the default size. Raises UserError for a method that is not there.
    """
    own = manifest["sizes"][name]
    programs = dict(manifest["programs"])
    for role, methods in own["methods"].items():
        known = programs.get(role, {"methods": {}})["methods"]
        for method, other in methods.items():
            if other not in known:
                raise UserError(
                    f".sizes[{name!r}].methods.{role}.{method} is {other!r}, which the program does not have"
                )
        placed = {method: known[other] | {"name": other} for method, other in methods.items()}
        programs[role] = programs[role] | {"methods": known | placed}
    sampling = manifest["sampling"]
    if sampling is not None and own["plans"] is not None:
        sampling = sampling | {"plans": own["plans"]}
    alone = {"image": own["image"], "latents": own["latents"], "programs": programs, "sampling": sampling}
    return manifest | alone | {"golden": None, "sizes": {}}
