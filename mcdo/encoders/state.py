"""State of a model that its state dict does not hold: tensors kept as plain attributes, and buffers left out of it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves_with_path

from mcdo.errors import McdoError

_REGISTERED = ("_parameters", "_buffers", "_modules")
_PLAIN = (type(None), bool, int, float, str)


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold as neither Parameter nor buffer, also in lists and dicts, by dotted name."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _REGISTERED or isinstance(value, _PLAIN) or (isinstance(value, (dict, list)) and not value):
                continue  # most of what modules hold, and no tensor is in it
            for path, leaf in tree_leaves_with_path(value):
                if isinstance(leaf, Tensor):
                    parts = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path)
                    found[".".join(filter(None, (prefix, attribute, *map(str, parts))))] = leaf
    return found


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are not part of the state dict (made by the code from its settings), by name."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def refuse_packed(key: str, model: nn.Module) -> None:
    """Raise McdoError for a tensor that only looks like one, as quantisation leaves behind, naming it."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if type(value).__torch_dispatch__ != Tensor.__torch_dispatch__:
            raise McdoError(
                f"{key}: {name} is a {type(value).__name__}, which is no plain tensor but packed, as by quantisation: "
                "the maps that it takes part in cannot be perturbed. Load the weights as they were before"
            )


def refuse_not_finite(key: str, model: nn.Module) -> None:
    """Raise McdoError for a parameter that is NaN or infinite somewhere, naming it. Buffers may be: a mask's are."""
    for name, value in model.named_parameters():
        finite = value.isfinite()
        if not bool(finite.all()):
            wrong = int(finite.logical_not().sum())
            raise McdoError(
                f"{key}: {name} holds {wrong} of {value.numel()} numbers that are NaN or infinite, so no feature can "
                "be measured. The file is damaged, or its training has diverged: load other weights"
            )
