"""Finding weights on this disk, and refusing whatever would have to be unpickled.

Nothing is ever downloaded here: what is missing is an error with the one command that gets it, at once and also
without a network.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.names import utf8_path

# In open_clip's order of preference.
CHECKPOINT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_PICKLED = (".bin", ".pt", ".pth")
_BUILT_AT_ONCE = 10**8
"""Parameters that are allocated in no time; what does not fit so small a model is said when it is loaded."""
_ADAPTER = re.compile(r"^adapter_config\.json$|^adapter_model\b|(^|[_.-])lora([_.-].*)?\.(safetensors|bin|pt)$", re.I)
_RANDOM = "Random weights must be asked for by name: weights='random', --random-weights=KEY."
_CONVERT = "save its tensors as open_clip_model.safetensors (safetensors.torch.save_file) and put that there instead"


def cached(repo: str, filename: str) -> Path | None:
    """The file of a HuggingFace repository in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, filename)
    except HFValidationError as error:
        raise McdoError(f"{repo!r} is not a HuggingFace repository id, which looks like OWNER/NAME") from error
    return Path(found) if isinstance(found, str) else None


def missing(key: str, what: str, repo: str) -> McdoError:
    """The error for something of a HuggingFace repository that is not on disk."""
    return McdoError(
        f"{key}: {what} of {repo} are not on this disk. Get them with\n    hf download {repo}\n"
        f"(later runs need no network). {_random(what)}"
    )


def _random(what: str) -> str:
    """What random weights would help, which is no advice to who asked for them."""
    return _RANDOM if what == "the weights" else "Random weights stand in for the weights alone."


def is_hub_id(source: str) -> bool:
    """Whether a source that is no folder here looks like a repository."""
    return source.count("/") <= 1 and not source.startswith((".", "/", "~"))


def absent(key: str, what: str, source: str) -> McdoError:
    """The error for something that is not beside config.json."""
    if not arguments.path(source).is_dir() and is_hub_id(source):
        return missing(key, what, source)
    return McdoError(
        f"{key}: {what} are not in {source}; a checkpoint's folder holds config.json, model.safetensors, "
        f"preprocessor_config.json and the tokenizer's files. {_random(what)}"
    )


def cached_checkpoint(key: str, repo: str) -> Path:
    """An open_clip checkpoint from the local HuggingFace cache."""
    for name in CHECKPOINT_NAMES[:4]:
        found = cached(repo, name)
        if found is not None:
            return found
    raise missing(key, "the weights", repo)


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a local directory: a usual name, or else the only .safetensors there."""
    for name in CHECKPOINT_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(path.name for path in others)
        raise McdoError(f"{folder} holds several checkpoints ({names}); name the right one {CHECKPOINT_NAMES[0]}")
    refused = sorted(p.name for p in folder.iterdir() if p.suffix in (*_PICKLED, ".npz", ".npy", ".ckpt"))
    seen = f"; {', '.join(refused)} is not read: {_CONVERT}" if refused else f"; expected {CHECKPOINT_NAMES[0]}"
    raise McdoError(f"{folder} holds no checkpoint{seen}. {_RANDOM}")


def refuse_adapters(key: str, folder: Path) -> None:
    """Raise McdoError for an adapter beside the weights: the library would load the base model without it."""
    found = sorted(path.name for path in folder.iterdir() if _ADAPTER.search(path.name))
    if found:
        raise McdoError(
            f"{key}: {folder} holds an adapter ({', '.join(found)}), which is not applied here. Merge it into the "
            "weights (peft: merge_and_unload, then save_pretrained) or, to measure the base model, move it away"
        )


def check_extent(place: str, parameters: int, checkpoint: Sequence[Path] | None) -> None:
    """Raise McdoError where a configuration describes more than its weights hold, or than this machine has room for.

    Args:
        place: of the configuration, for the message.
        parameters: that it describes at the least.
        checkpoint: the files of weights; None for random ones.

    """
    if parameters < _BUILT_AT_ONCE:
        return
    held = None if checkpoint is None else sum(path.stat().st_size for path in checkpoint)
    if held is not None and parameters > held:
        raise McdoError(
            f"{place} describes more than {parameters:.1e} parameters, but its weights have {held} bytes; the two do "
            "not belong together"
        )
    room = _memory()
    if room is not None and 4 * parameters > room:
        raise McdoError(f"{place} describes more than {parameters:.1e} parameters, which {room:.1e} bytes do not hold")


def _memory() -> int | None:
    """Bytes of memory of this machine, where it says so."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def refuse_surplus(checkpoint: Path, parameters: int) -> None:
    """Raise McdoError for a checkpoint far larger than a model of so many parameters, before it is read.

    Trained in double precision and kept with an optimiser's state of three numbers each, it has 32 bytes for each.
    """
    if not checkpoint.is_file():
        raise McdoError(f"{checkpoint} is not a regular file; name the file of weights")
    size, most = checkpoint.stat().st_size, 32 * parameters + 2**26
    if size > most:
        raise McdoError(
            f"{checkpoint} has {size} bytes, but its model of {parameters} parameters takes less than {most}"
        )


def _refuse_packed(checkpoint: Path) -> None:
    """Raise McdoError for an archive that unpacks to more than it is: torch stores its own without compression."""
    if zipfile.is_zipfile(checkpoint):
        with zipfile.ZipFile(checkpoint) as archive:
            packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
            claimed = sum(each.file_size for each in archive.infolist())
        if packed or claimed > checkpoint.stat().st_size:
            raise McdoError(f"{checkpoint} is a packed archive ({claimed} bytes unpacked) and is not read; {_CONVERT}")


def refuse_pickles(checkpoint: Path) -> None:
    """Raise McdoError for a checkpoint that is neither safetensors nor loadable with ``weights_only=True``."""
    if checkpoint.suffix == ".safetensors":
        return
    if checkpoint.suffix not in _PICKLED:
        raise McdoError(f"{checkpoint}: {checkpoint.suffix} files are not read; {_CONVERT}")
    try:
        _refuse_packed(checkpoint)
        # Read once more before the library does: open_clip's fallback for old versions of torch omits weights_only.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol|.*TorchScript archive")
            torch.load(checkpoint, map_location="meta", weights_only=True)
    except McdoError:
        raise
    except Exception as error:  # damaged or hostile bytes can fail anywhere in the reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise McdoError(
            f"{checkpoint} holds more than tensors (or is damaged) and is not unpickled; {_CONVERT}. ({reason})"
        ) from error


@contextmanager
def refusing_other_numbers(key: str, checkpoint: Path, model: nn.Module) -> Iterator[None]:
    """Within, a model loads whole, logical or complex numbers of a state dict nowhere that it has floats.

    Raises:
        McdoError: where it would; torch casts them without a word, which makes another encoder.

    """
    hook = model.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
        lambda _, state, *__: refuse_other_numbers(key, checkpoint, state, model)
    )
    try:
        yield
    finally:
        hook.remove()


def refuse_other_numbers(key: str, checkpoint: Path, state: Mapping[str, Any], model: nn.Module) -> None:
    """Raise McdoError for numbers of a state dict that are no floats, where the model's of that name are."""
    wanted = model.state_dict()
    for name, held in state.items():
        own = wanted.get(name)
        other = isinstance(held, Tensor) and not held.is_floating_point()
        if other and isinstance(own, Tensor) and own.is_floating_point():
            raise _other_numbers(key, checkpoint, name, str(held.dtype))


def refuse_other_numbers_in(key: str, checkpoint: Path, indices: str) -> None:
    """Raise McdoError for a tensor of a file that holds no floats, but for those whose names end in ``indices``."""
    if checkpoint.suffix == ".safetensors":
        with safe_open(utf8_path(checkpoint.parent) / checkpoint.name, "pt") as file:
            said = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
        others = {name: kind for name, kind in said.items() if not kind.startswith(("F", "BF"))}
    else:
        held = torch.load(checkpoint, map_location="meta", weights_only=True)
        kinds = {name: each.dtype for name, each in held.items() if isinstance(each, Tensor)}
        others = {name: str(kind) for name, kind in kinds.items() if not kind.is_floating_point}
    for name, kind in others.items():
        if not name.endswith(indices):
            raise _other_numbers(key, checkpoint, name, kind)


def _other_numbers(key: str, checkpoint: Path, name: str, kind: str) -> McdoError:
    return McdoError(
        f"{key}: {checkpoint} holds {name} as {kind.removeprefix('torch.')}, and the model has floats there: cast, "
        "as the library would, these would be other weights (quantised ones without their scales are). Save the "
        "weights as they were before"
    )


def brief(error: Exception) -> str:
    """The type and the first words of a library's error, on one line."""
    return f"{type(error).__name__} {' '.join(str(error).split())[:300]}".strip()


def loading_failed(key: str, checkpoint: Path, error: Exception) -> McdoError:
    """The error for a checkpoint that does not fit its model, with the first lines of the library's reason."""
    lines = [line.strip() for line in str(error).splitlines()][:4]
    damaged = " The file is damaged: get it again." if isinstance(error, SafetensorError) else ""
    return McdoError(f"{key}: {checkpoint} cannot be loaded into this model.{damaged} {' '.join(lines)[:600]}")
