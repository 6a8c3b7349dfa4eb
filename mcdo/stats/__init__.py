"""What the estimates are worth: reliability, validity, calibration, each a pure function of arrays."""

from mcdo.stats.agreement import LEVEL_BAND, RANKING_BAR, Agreement, agreement
from mcdo.stats.ambiguity import (
    AmbiguityTargets,
    above_chance,
    ambiguity_targets,
    prompt_sensitivity,
)
from mcdo.stats.association import partial_spearman, spearman
from mcdo.stats.attenuation import disattenuated, disattenuated_spearman, trial_spearman
from mcdo.stats.bias import MeanBias, mean_bias
from mcdo.stats.calibration import (
    ReliabilityDiagram,
    adaptive_calibration_error,
    expected_calibration_error,
    reliability_diagram,
)
from mcdo.stats.comparison import Difference, auroc_differences, corrected, corrected_families, spearman_differences
from mcdo.stats.crossed import crossed_mean
from mcdo.stats.debiased import debiased_ece, debiased_squared_calibration_error
from mcdo.stats.decision import Usable, usable_cells
from mcdo.stats.detection import auroc, auroc_high, auroc_low
from mcdo.stats.domain import compared_scores, linearity, with_domain
from mcdo.stats.drift import stacked_drift, trial_drift
from mcdo.stats.factorial import FactorialAnalysis, factorial_analysis
from mcdo.stats.groups import GroupDifference, group_differences
from mcdo.stats.mean_differences import mean_differences, t_mean
from mcdo.stats.means import mean, median, ratio_of_means
from mcdo.stats.paired import PairedIncrease, wilcoxon_increase
from mcdo.stats.prediction import (
    PredictedReliability,
    UsablePasses,
    predicted_reliability,
    smallest_usable_passes,
)
from mcdo.stats.rank_matrix import RankMatrix, rank_matrix
from mcdo.stats.reading import reading_error
from mcdo.stats.relations import Relation, advantages, rank_relations
from mcdo.stats.reliability import Reliability, reliability
from mcdo.stats.resampling import (
    Estimate,
    NullRate,
    Origins,
    bootstrap,
    holm,
    null_pass_rate,
    permutation_p,
    proportion,
)
from mcdo.stats.response import ResponseCurve, response_curve
from mcdo.stats.sample import Inferred, Sample
from mcdo.stats.shares import mean_shares, share
from mcdo.stats.signal_noise import icc_from_snr
from mcdo.stats.status import THRESHOLDS, Thresholds, status_of
from mcdo.stats.tracking import Association, TrackingMetrics, tracking_metrics
from mcdo.stats.validity import ambiguity_estimates, ambiguity_table, report_of

__all__ = [
    "LEVEL_BAND",
    "RANKING_BAR",
    "THRESHOLDS",
    "Agreement",
    "AmbiguityTargets",
    "Association",
    "Difference",
    "Estimate",
    "FactorialAnalysis",
    "GroupDifference",
    "Inferred",
    "MeanBias",
    "NullRate",
    "Origins",
    "PairedIncrease",
    "PredictedReliability",
    "RankMatrix",
    "Relation",
    "Reliability",
    "ReliabilityDiagram",
    "ResponseCurve",
    "Sample",
    "Thresholds",
    "TrackingMetrics",
    "Usable",
    "UsablePasses",
    "above_chance",
    "adaptive_calibration_error",
    "advantages",
    "agreement",
    "ambiguity_estimates",
    "ambiguity_table",
    "ambiguity_targets",
    "auroc",
    "auroc_differences",
    "auroc_high",
    "auroc_low",
    "bootstrap",
    "compared_scores",
    "corrected",
    "corrected_families",
    "crossed_mean",
    "debiased_ece",
    "debiased_squared_calibration_error",
    "disattenuated",
    "disattenuated_spearman",
    "expected_calibration_error",
    "factorial_analysis",
    "group_differences",
    "holm",
    "icc_from_snr",
    "linearity",
    "mean",
    "mean_bias",
    "mean_differences",
    "mean_shares",
    "median",
    "null_pass_rate",
    "partial_spearman",
    "permutation_p",
    "predicted_reliability",
    "prompt_sensitivity",
    "proportion",
    "rank_matrix",
    "rank_relations",
    "ratio_of_means",
    "reading_error",
    "reliability",
    "reliability_diagram",
    "report_of",
    "response_curve",
    "share",
    "smallest_usable_passes",
    "spearman",
    "spearman_differences",
    "stacked_drift",
    "status_of",
    "t_mean",
    "tracking_metrics",
    "trial_drift",
    "trial_spearman",
    "usable_cells",
    "wilcoxon_increase",
    "with_domain",
]
