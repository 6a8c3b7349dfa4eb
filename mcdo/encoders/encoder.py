"""A loaded, frozen vision-language encoder, the same to its users whichever library built it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mcdo.encoders.architecture import coarse, fingerprint
from mcdo.encoders.checksum import Checksum, checksum, sha256
from mcdo.encoders.spec import EncoderSpec, Loss, Precision
from mcdo.encoders.state import plain_tensors, refuse_not_finite, refuse_packed, unsaved_buffers
from mcdo.errors import McdoError, NoTextTowerError, refused_as
from mcdo.names import is_unicode
from mcdo.threads import one_thread

Tokenizer = Callable[[list[str]], Tensor]
NamedModules = tuple[tuple[str, nn.Module], ...]
PROBE_TEXTS = (
    "a photo of a seven",
    "  Two  WORDS, \u00e9t\u00e9!",
    "",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4,
)
"""Texts in which tokenizers differ: case, spaces, accents, nothing at all, and more than a context holds."""


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to what the model is shown: ``to_uint8`` resizes and crops, ``mean`` and ``std`` normalise.

    ``identity`` describes every choice in it, for the keys of stored results.
    """

    to_uint8: Callable[[Image.Image], Tensor]
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str


@dataclass(frozen=True)
class Towers:
    """The towers of a built model, as functions and as the modules whose state they read; ``text`` may be None.

    ``image_modules`` and ``text_modules`` are (dotted name in the model, module). Where open_clip's CLIP keeps the
    text projection as a bare Parameter of the whole model, that parameter is in none of them.
    """

    image: Callable[[Tensor], Tensor]
    text: Callable[[Tensor], Tensor] | None
    image_modules: NamedModules
    text_modules: NamedModules


class Encoder:
    """A frozen encoder in evaluation mode and float32: pre-norm features, tokens, and the zero-shot head.

    ``model`` is the whole library model; ``image_modules`` and ``text_modules`` are the parts that belong to a tower.
    ``mean`` and ``std`` are float32 [3] on ``device``.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        model: nn.Module,
        towers: Towers,
        preprocessing: Preprocessing,
        load_tokenizer: Callable[[], Tokenizer] | None,
        *,
        random_weights: bool,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        _check_default_type(spec.key)
        self.spec, self.key = spec, spec.key
        self.precision = precision
        refuse_packed(spec.key, model)
        self.model = model.float().to(device).eval().requires_grad_(False)
        refuse_not_finite(spec.key, self.model)
        self.towers, self.preprocessing = towers, preprocessing
        self.random_weights, self.device = random_weights, device
        self.feature_dim, self.resolution = spec.feature_dim, preprocessing.resolution
        self.loss: Loss = spec.loss
        self.mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)
        self.std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
        self._load_tokenizer = load_tokenizer
        self._hashed: tuple[Checksum, str] | None = None
        self._plain, self._unsaved = tuple(plain_tensors(self.model)), tuple(unsaved_buffers(self.model))
        self._probed: dict[str, tuple[tuple[str, str], str]] = {}
        self._tokenizer_hash: str | None = None

    @classmethod
    def of(
        cls,
        module: nn.Module,
        preprocessing: Any,
        *,
        name: str = "own",
        features: str | int | Callable[[Any], Tensor] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        random_weights: bool = False,
    ) -> Encoder:
        """An encoder of any module that turns pixels into features, without a text tower.

        The module is put on the device, in float32 and evaluation mode, and frozen; wrappers of torch.compile are left
        out. What needs text is skipped, with the reason.

        Args:
            module: takes float32 pixels ``[B, 3, H, W]`` and returns ``[B, D]`` (before any normalisation), or what
                ``features`` is in.
            preprocessing: a transform of open_clip, timm or torchvision that ends in Normalize, an image processor of
                transformers, timm's data configuration, or a dict of mean, std, size and interpolation.
            name: key of the encoder in reports and options.
            features: field, index or key of the output that holds ``[B, D]``, or a function of the output.
            device: where it runs; where the module is if None.
            precision: of linear maps; other than float32 by autocast.
            random_weights: the weights are untrained, so that nothing is decided by them.

        Raises:
            McdoError: for a module that fails on pictures of the preprocessing's size, for an output in which
                ``features`` are not found or are not ``[B, D]``, and for a preprocessing that cannot be taken apart.

        """
        from mcdo.encoders.own import encoder_of

        return encoder_of(module, preprocessing, name, features, device, precision, random_weights)

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return self.towers.text is not None

    def _without_text(self, what: str) -> NoTextTowerError:
        return NoTextTowerError(f"{self.key} has no text tower, which {what} need")

    def __repr__(self) -> str:
        weights = "random" if self.random_weights else "pretrained"
        return f"Encoder({self.key!r}, {weights}, D={self.feature_dim}, {self.resolution} px, {self.device})"

    @property
    def image_modules(self) -> NamedModules:
        """The roots of the image tower: (dotted name in ``model``, module)."""
        return self.towers.image_modules

    @property
    def dtype(self) -> str:
        """Name of the type that linear maps are carried out in; weights and features are float32 all the same."""
        return self.precision

    @property
    def preprocess_id(self) -> str:
        """Resize, crop, interpolation, mean and std, in words: part of the key of whatever is stored."""
        return self.preprocessing.identity

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with (already exponentiated)."""
        if not self.has_text:
            raise self._without_text("logits")
        return float(self.model.get_parameter("logit_scale").detach().double().exp().reshape(()))

    @property
    def logit_bias(self) -> float:
        """What is added to the scaled cosines; 0 for a model that has none."""
        bias = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach().reshape(()))

    @property
    def weights_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the state dict and of plain tensors, sorted by name.

        Plain tensors are those that modules held as attributes when the encoder was made; what a pass leaves behind
        later is no weight. Weights change under a running program (a merged adapter, ``load_state_dict``, a step of an
        optimiser), so each look compares a checksum, at the speed of memory, and hashes again what has changed.
        """
        plain = plain_tensors(self.model) if self._plain else {}
        state = self.model.state_dict() | {name: plain[name] for name in self._plain if name in plain}
        odd = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
        if odd is not None:
            raise McdoError(f"{self.key}: {odd} is no tensor but packed, as by quantisation, and cannot be perturbed")
        seen = checksum(state)
        if self._hashed is None or self._hashed[0] != seen:
            self._hashed = (seen, sha256(state))
        return self._hashed[1]

    @property
    def architecture(self) -> str:
        """SHA-256 of what the model does with its weights, and of what a picture goes through before.

        See :func:`~mcdo.encoders.architecture.fingerprint`; it follows the model as it is now. With it go the buffers
        that the state dict leaves out, as they were made by the code.
        """
        held = dict(self.model.named_buffers())
        unsaved = {name: held[name] for name in self._unsaved if name in held}
        return fingerprint(self.model, self.towers.image, self.towers.text, self.preprocessing.to_uint8, unsaved)

    @property
    def probe(self) -> str:
        """Digest, to two digits, of the image features of a fixed input: the architecture as it is carried out."""
        return self.probe_of(self._now())

    def probe_of(self, now: tuple[str, str]) -> str:
        """:attr:`probe`, for who has just looked at :attr:`weights_hash` and :attr:`architecture`, which takes long."""
        return self._carried_out(now, "image", lambda: self.forward_image(self.calibration_inputs(1), exact=True))

    @property
    def text_identity(self) -> str:
        """Digest of the tokenizer, of what it makes of fixed texts, and of their features to two digits.

        Raises:
            McdoError: when the tokenizer's files are not on disk.

        """
        return self.text_identity_of(self._now())

    def text_identity_of(self, now: tuple[str, str]) -> str:
        """:attr:`text_identity`, as :meth:`probe_of` is :attr:`probe`."""
        if self._tokenizer_hash is None:
            self._tokenizer_hash = fingerprint(self._tokenizer, self.tokenize(PROBE_TEXTS).tolist())
        return f"{self._tokenizer_hash} {self._carried_out(now, 'text', lambda: self.encode_text(PROBE_TEXTS))}"

    def _now(self) -> tuple[str, str]:
        return self.weights_hash, self.architecture

    def _carried_out(self, now: tuple[str, str], tower: str, features: Callable[[], Tensor]) -> str:
        if tower not in self._probed or self._probed[tower][0] != now:
            with torch.no_grad(), one_thread():
                self._probed[tower] = now, coarse(features())
        return self._probed[tower][1]

    def to_uint8(self, image: Image.Image) -> Tensor:
        """The model's own resize and crop: RGB picture to uint8 [3, H, W] on the CPU. Safe in several threads.

        Raises:
            McdoError: for a picture so long that, scaled by its short side, it is too large to hold.

        """
        (short, long), most = sorted(image.size), Image.MAX_IMAGE_PIXELS
        if most is not None and long * self.resolution**2 > most * short:
            raise McdoError(
                f"{image.width} x {image.height} pixels are too long for {self.key}, which scales the short side to "
                f"{self.resolution}; cut it, or leave it out"
            )
        return self.preprocessing.to_uint8(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the image tower is shown: uint8 [B, 3, H, W] to float32 (x / 255 - mean) / std on the device."""
        scaled = pixels.to(self.device).to(torch.float32).div_(255)
        return scaled.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])

    def blank(self, n: int) -> Tensor:
        """``n`` rows of what :meth:`forward_image` takes, for looking at the tower's shapes."""
        return torch.zeros(n, 3, self.resolution, self.resolution, dtype=torch.float32, device=self.device)

    def calibration_inputs(self, n: int) -> Tensor:
        """``n`` fixed inputs of :meth:`forward_image`, smooth noise, which no image set can change."""
        coarse = torch.randn(n, 3, 4, 4, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
        return functional.interpolate(coarse, size=(self.resolution,) * 2, mode="bicubic").to(self.device)

    def forward_image(self, pixels: Tensor, *, exact: bool = False) -> Tensor:
        """Pre-norm image features [B, D] of normalised pixels [B, 3, H, W]; autograd works through it.

        ``exact`` carries linear maps out in float32 whatever the precision.
        """
        with self._autocast(exact), eagerly(self.model):
            return self.as_features(self.towers.image(pixels))

    def forward_text(self, tokens: Tensor) -> Tensor:
        """Pre-norm text features [B, D] of tokens [B, L]; autograd works through it.

        Raises:
            NoTextTowerError: if there is no text tower.

        """
        if self.towers.text is None:
            raise self._without_text("text features")
        with self._autocast(), eagerly(self.model):
            return self.as_features(self.towers.text(tokens))

    def as_features(self, features: Tensor) -> Tensor:
        """float32 [B, D] of what a tower returned; a pooling head with one query returns [B, 1, D]."""
        if features.dim() == 3 and features.shape[1] == 1:
            features = features.squeeze(1)
        if features.dim() != 2 or features.shape[1] != self.feature_dim:
            raise McdoError(
                f"{self.key}: a tower returned features of shape {list(features.shape)}, not [B, {self.feature_dim}]; "
                "pool the tokens to one vector an input"
            )
        return features.float()

    def _autocast(self, exact: bool = False) -> AbstractContextManager[object]:
        low = not exact and self.precision != "float32"  # where not, an autocast around the call is switched off
        return torch.autocast(self.device.type, getattr(torch, self.precision) if low else None, enabled=low)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """int64 [n, L] on the device.

        Raises:
            McdoError: when the tokenizer's files are not on disk, for a text that is no Unicode, and for a bare text,
                whose letters would be taken for texts.

        """
        if isinstance(texts, str):
            raise McdoError(f"{self.key}: {_shortened(texts)} is one text and not a list of them; put it in brackets")
        for text in texts:
            if not isinstance(text, str) or not is_unicode(text):
                raise McdoError(
                    f"{self.key}: the prompt '{text}' holds bytes that are no UTF-8, so no tokenizer reads it; rename "
                    "the class directory or file that it comes from"
                )
        with refused_as(f"{self.key}: the tokenizer cannot be used"):
            tokens = self._tokenizer(list(texts))
        if tokens.numel() and int(tokens.max()) >= self._vocabulary:  # which would end a process on CUDA
            raise McdoError(
                f"{self.key}: its tokenizer gives the token {int(tokens.max())}, but its text tower knows "
                f"{self._vocabulary}; put the tokenizer that the weights were trained with beside them"
            )
        return tokens.to(self.device)

    @cached_property
    def _vocabulary(self) -> float:
        """Tokens that the text tower has rows for, as far as they are known."""
        return max((e.num_embeddings for e in self.model.modules() if isinstance(e, nn.Embedding)), default=math.inf)

    def check_distinct(self, prompts: Sequence[str], names: Sequence[str] | None = None) -> None:
        """Raise McdoError where two prompts are the same tokens, naming them (by ``names`` if given).

        Tokenizers change case, spaces and normal forms, and cut what is beyond the context length.
        """
        names = prompts if names is None else names
        if isinstance(names, str):
            raise McdoError(f"{self.key}: {_shortened(names)} is one name and not a list of them; put it in brackets")
        first: dict[tuple[int, ...], int] = {}
        for i, tokens in enumerate(self.tokenize(prompts).tolist()):
            j = first.setdefault(tuple(tokens), i)
            if j != i:
                raise McdoError(
                    f"{self.key}: {_shortened(names[j])} and {_shortened(names[i])} are the same to its tokenizer, "
                    f"which drops case, spaces and whatever follows {len(tokens)} tokens, or knows neither; rename them"
                )

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        # Lazy, because work with images alone must not need the tokenizer's files.
        if self._load_tokenizer is None:
            raise self._without_text("prompts")
        return self._load_tokenizer()

    def encode_text(self, prompts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Pre-norm text features of each prompt, float32 [n, D], without gradient."""
        if not prompts:
            raise McdoError(f"{self.key}: there are no prompts to encode")
        # no_grad and not inference_mode, so that the zero-shot head can be differentiated with respect to the image.
        with torch.no_grad(), refused_as(f"{self.key}: its text tower fails on prompts"):
            starts = range(0, len(prompts), batch_size)
            return torch.cat([self.forward_text(self.tokenize(prompts[i : i + batch_size])) for i in starts])

    def zero_shot_logits(self, features: Tensor, class_names: Sequence[str], template: str) -> Tensor:
        """Scale x cosine + bias between pre-norm image features [..., D] and each class's prompt: [..., C].

        ``template`` holds ``{}`` where the class name goes. Raises McdoError where two prompts are the same tokens.
        """
        return self.text_logits(features, self.class_directions(class_names, template))

    def class_directions(self, class_names: Sequence[str], template: str) -> Tensor:
        """The unit text features [C, D] of each class's prompt; as :meth:`zero_shot_logits`."""
        if "{}" not in template:
            raise McdoError(f"the template {template!r} has no {{}} for the class name; such as 'a photo of a {{}}'")
        prompts = [template.replace("{}", name) for name in class_names]
        self.check_distinct(prompts, class_names)
        return functional.normalize(self.encode_text(prompts), dim=-1)

    def text_logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Scale x cosine + bias between pre-norm image features [..., D] and unit text features [C, D]: [..., C]."""
        image = functional.normalize(features.to(text), dim=-1)
        return self.logit_scale * image @ text.T + self.logit_bias

    def text_collapse(self, prompts: Sequence[str]) -> float:
        """Mean cosine over all pairs of different prompts: 1 when the text tower tells none of them apart."""
        if len(prompts) < 2:
            raise McdoError(f"{self.key}: the mean pairwise cosine needs at least two prompts, got {len(prompts)}")
        units = functional.normalize(self.encode_text(prompts).double().cpu(), dim=-1)
        n = len(units)
        return float((units.sum(0).square().sum() - units.square().sum()) / (n * (n - 1)))

    def check_as_loaded(self) -> None:
        """Raise McdoError for a model that was converted, moved or put into training mode since it was loaded.

        And for a default type of torch below float32.
        """
        _check_default_type(self.key)
        training = next((name or "the model" for name, module in self.model.named_modules() if module.training), None)
        if training is not None:
            raise McdoError(
                f"{self.key}: {training} is in training mode, so native dropout may be on; call model.eval()"
            )
        for name, value in self.model.named_parameters():
            if value.dtype != torch.float32 and value.is_floating_point():
                raise McdoError(
                    f"{self.key}: the weights were converted to {value.dtype} ({name}), and stay float32 here. Load "
                    "the encoder anew, with precision='float16' or 'bfloat16' for linear maps in it"
                )
            if value.device.type != self.device.type:
                raise McdoError(
                    f"{self.key}: the model was moved to {value.device} ({name}), but was loaded for {self.device}; "
                    f"load it anew with device='{value.device}'"
                )


def _check_default_type(key: str) -> None:
    """Raise McdoError where torch makes new numbers coarser than float32: libraries load weights into such."""
    default = torch.get_default_dtype()
    if torch.finfo(default).bits < 32:
        raise McdoError(
            f"{key}: torch.get_default_dtype() is {default}, to which weights and sums would be rounded; call "
            "torch.set_default_dtype(torch.float32), and give precision='float16' or 'bfloat16' for linear maps in it"
        )


def eagerly(model: nn.Module) -> AbstractContextManager[object]:
    """Compiled parts are carried out operation by operation inside, so that maps are seen and disturbed."""
    compiled = any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:38]!r} ... {text[-38:]!r}"
