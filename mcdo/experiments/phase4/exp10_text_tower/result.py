"""What the scores of prompts follow, apart from their length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.phase4.exp10_text_tower.fixed_length import Array
from mcdo.experiments.phase4.exp10_text_tower.prompt_bank import Prompt
from mcdo.stats import Difference, Estimate, GroupDifference, Relation, Reliability


@dataclass(frozen=True, eq=False)
class TextResult:
    """By score, those of FIRST_ORDER among them, unless said otherwise.

    Attributes:
        prompts: in the order of every array.
        tokens, specificity, wording, feature_norm: of each prompt.
        scores: means over trials.
        reliability: of the Monte Carlo scores.
        ratio: mean Monte Carlo trace_pre over that of first order.
        specific: relation to specificity, plain and given the number of tokens.
        same_length: the same of ranks among prompts of one length, at lengths that several specificities have.
        given_norm: the same, plain and given the feature norm.
        length: relation to the number of tokens, plain and given the feature norm.
        detects: AUROC for the least specific fifth, of the score and of its rank among prompts of one length.
        advantage: over token count and feature norm, by (score, baseline, target).
        generic: frames that name no class against the others, by mean rank at one length; p_holm is over scores.
        styles: by style too, mean rank (0 to 1) among prompts of one length.
        crossed: how many prompts have a length that several specificities have.

    """

    prompts: tuple[Prompt, ...]
    tokens: NDArray[np.int64]
    specificity: Array
    wording: Array
    scores: Mapping[str, Array]
    feature_norm: Array
    reliability: Mapping[str, Reliability]
    ratio: Estimate
    specific: Mapping[str, Relation]
    same_length: Mapping[str, Relation]
    given_norm: Mapping[str, Relation]
    length: Mapping[str, Relation]
    detects: Mapping[str, Mapping[str, Estimate]]
    advantage: Mapping[tuple[str, str, str], Difference]
    generic: Mapping[str, GroupDifference]
    styles: Mapping[str, Mapping[str, Estimate]]
    crossed: int

    @property
    def frames(self) -> int:
        return len({prompt.frame for prompt in self.prompts})

    def as_dict(self) -> dict[str, Any]:
        return {
            "num_prompts": len(self.prompts),
            "prompts": len(self.prompts),
            "frames": self.frames,
            "prompts_at_crossed_lengths": self.crossed,
            "intervals": "over frames (n counts them), the classes that fill them being given; with several trials of "
            "first order also what other probes would have given",
            "tests": "p_holm: over the scores of a relation, plain and partial together; of advantages over all; of "
            "generic frames over the scores, by permutation of frames",
            "monte_carlo_over_first_order": self.ratio,
            "reliability": self.reliability,
            "specificity_given_tokens": self.specific,
            "specificity_same_length": self.same_length,
            "specificity_given_feature_norm": self.given_norm,
            "token_count": self.length,
            "unspecific": self.detects,
            "advantage_over_baselines": {"/".join(key): d for key, d in self.advantage.items()},
            "generic_frames_against_named_same_length": self.generic,
            "style_mean_rank_same_length": self.styles,
        }
