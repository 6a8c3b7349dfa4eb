"""What a built model does, as a fingerprint: the tree of its modules with everything in it that is no weight.

The same weights give other features under another activation, number of heads, epsilon or padding, none of which a
state dict holds. So objects are walked as they are in memory, whatever file their settings came from: classes, every
attribute, the arguments of partials, what closures hold. Code of libraries is known by their versions, which stand in
every key; any other code is read. Tensors of modules are left out: they are weights, or what a pass has left behind.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcdo.store.fingerprint import text_of

VERSIONED = frozenset(
    {
        *sys.stdlib_module_names,
        *("torch", "torchvision", "numpy", "PIL", "open_clip", "timm", "transformers", "tokenizers", "sentencepiece"),
    }
)
"""Packages whose versions are in every key, so that the names of their functions and classes do."""

_IGNORED = frozenset(
    {
        *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"),  # walked on their own
        *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook", "_non_persistent_buffers_set"),
        *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
        *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
        "training",  # a tower in training mode is refused
        *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version"),  # where a model came from
        *("vocab_file", "tokenizer_file", "special_tokens_map_file", "merges_file", "tokenizer_config_file"),
        *("cache", "warnings_issued", "deprecation_warnings"),  # grow with use
    }
)
"""Attributes that decide no number, or are walked elsewhere."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_NAMED = (torch.dtype, torch.layout, torch.memory_format, types.ModuleType, types.BuiltinFunctionType)


def fingerprint(*things: object) -> str:
    """SHA-256 over models, functions and whatever they hold: equal for objects that were built alike."""
    walk = _Walk()
    for thing in things:
        walk.see(thing)
    return walk.digest.hexdigest()


class _Walk:
    """Sees every object once; what is met again is known by its number."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[object] = []  # an id is only known for as long as its object lives

    def _say(self, *words: object) -> None:
        self.digest.update(("\0".join(map(str, words)) + "\n").encode("utf-8", "surrogatepass"))

    def see(self, value: Any) -> None:
        """Add a value and all that it holds."""
        if isinstance(value, Enum):
            self._say("enum", _name(type(value)), value.name)
        elif isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
        elif isinstance(value, (*_NAMED, torch.device, re.Pattern)):
            self._say(_name(type(value)), value.type if isinstance(value, torch.device) else _without_address(value))
        elif isinstance(value, PurePath):
            self._say("path")  # where something lies decides nothing
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._array(value.detach().cpu())
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(
                torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biufc" else value.tolist()
            )
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, functools.partial):
            self._all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self._all("method", [value.__func__, value.__self__])
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, Mapping):
            self._say("mapping", _name(type(value)), len(value))
            for key in sorted(value, key=repr):
                if key not in _IGNORED:
                    self.see(key)
                    self.see(value[key])
        elif isinstance(value, Set):
            self._say("set", _name(type(value)), *sorted(fingerprint(each) for each in value))
        elif isinstance(value, Sequence):
            self._all(_name(type(value)), value)
        else:
            self._instance(value)

    def _all(self, kind: str, values: Sequence[Any]) -> None:
        self._say(kind, len(values))
        for each in values:
            self.see(each)

    def _array(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            self.see(value)
            return
        self._say("tensor", value.dtype, tuple(value.shape))
        self.digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _module(self, module: nn.Module) -> None:
        self._say("module", _name(type(module)), module.extra_repr())
        self.see(type(module))
        self._attributes(module)
        for name, value in module._parameters.items():  # their values are the weights
            self._say("parameter", name, None if value is None else tuple(value.shape))
        for name, child in module._modules.items():
            self._say("child", name)
            self.see(child)
        for hooks in _HOOKS:
            self._all(hooks, list(getattr(module, hooks).values()))

    def _attributes(self, value: Any) -> None:
        held = {**_slots(value), **getattr(value, "__dict__", {})}
        for name in sorted(held):
            if name not in _IGNORED and not (isinstance(value, nn.Module) and _is_state(held[name])):
                self._say("attribute", name)
                self.see(held[name])

    def _function(self, function: types.FunctionType) -> None:
        self._say("function", _name(function))
        if not _versioned(function):
            self._say(text_of(function.__code__))
        self.see(function.__defaults__)
        self.see(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self.see(cell.cell_contents)
            except ValueError:  # not filled yet
                self._say("empty")

    def _class(self, kind: type) -> None:
        self._say("class", _name(kind))
        if _versioned(kind):
            return
        for base in kind.__bases__:
            self.see(base)
        for name, member in sorted(vars(kind).items()):
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if code is not None:
                self._say(name, text_of(code))
            elif isinstance(member, (*_PLAIN, tuple)) and not name.startswith("__"):
                self._say(name, repr(member))

    def _instance(self, value: Any) -> None:
        self._say("instance", _name(type(value)))
        if hasattr(value, "to_str") and type(value).__module__.startswith("tokenizers"):
            # what is padded and cut is said with every call
            said = json.loads(value.to_str())
            self.see({name: held for name, held in said.items() if name not in ("padding", "truncation")})
        elif hasattr(value, "serialized_model_proto"):
            self.see(value.serialized_model_proto())
        elif not isinstance(value, type(sys)) and (hasattr(value, "__dict__") or _slots(value)):
            self.see(type(value))
            self._attributes(value)
        else:
            self._say(_without_address(value))


PRECISION = 0.01
"""Steps in which features are told apart: far above what threads, processors and libraries do to the last bits."""
_PROBES = 8


def coarse(features: Tensor) -> str:
    """Digest of features ``[n, D]`` to two digits: of their norms, and of their directions along a few fixed ones."""
    held = features.detach().double().cpu().nan_to_num()
    norm = held.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    fixed = torch.randn(held.shape[-1], _PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.cat((norm.log(), held / norm @ fixed), dim=-1).div(PRECISION).round().long().tolist()
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def _is_state(value: object) -> bool:
    """Whether tensors are held, or will be: of a first pass, a module may keep some in a dict that is empty before."""
    if isinstance(value, dict) and not value:
        return True
    return not isinstance(value, _PLAIN) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _slots(value: Any) -> dict[str, Any]:
    names = [name for kind in type(value).__mro__ for name in _listed(vars(kind).get("__slots__", ()))]
    return {name: getattr(value, name) for name in names if name != "__dict__" and hasattr(value, name)}


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _versioned(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in VERSIONED


def _without_address(value: object) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
