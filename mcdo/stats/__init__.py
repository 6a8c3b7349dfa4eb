"""What the estimates are worth: reliability, validity, calibration, each a pure function of arrays."""

from mcdo.stats.ambiguity import (
    AmbiguityTargets,
    ambiguity_targets,
    entropy,
    margin,
    prompt_sensitivity,
    sigmoid_entropy,
    sigmoid_margin,
)
from mcdo.stats.bias import MeanBias, mean_bias
from mcdo.stats.calibration import (
    ReliabilityDiagram,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_diagram,
)
from mcdo.stats.clusters import clustered_ambiguity, clustered_spearman_differences
from mcdo.stats.comparison import (
    Difference,
    auroc_differences,
    bootstrap_p,
    corrected,
    normal_p,
    spearman_differences,
)
from mcdo.stats.debiased import debiased_ece, debiased_squared_calibration_error
from mcdo.stats.drift import stacked_drift, trial_drift
from mcdo.stats.factorial import FactorialAnalysis, factorial_analysis
from mcdo.stats.groups import GroupDifference, group_differences
from mcdo.stats.prediction import (
    PredictedReliability,
    UsablePasses,
    predicted_reliability,
    smallest_usable_passes,
)
from mcdo.stats.rank_matrix import RankMatrix, rank_matrix
from mcdo.stats.relations import Relation, advantages, rank_relations
from mcdo.stats.reliability import THRESHOLDS, Reliability, Thresholds, icc_from_snr, reliability, status_of
from mcdo.stats.resampling import Estimate, NullRate, bootstrap, holm, null_pass_rate, permutation_p, proportion
from mcdo.stats.response import ResponseCurve, response_curve
from mcdo.stats.tracking import Association, TrackingMetrics, tracking_metrics
from mcdo.stats.validity import (
    PairedIncrease,
    ambiguity_estimates,
    ambiguity_report,
    auroc,
    auroc_high,
    auroc_low,
    disattenuated,
    partial_spearman,
    spearman,
    spearman_permutation_p,
    wilcoxon_increase,
)

__all__ = [
    "THRESHOLDS",
    "AmbiguityTargets",
    "Association",
    "Difference",
    "Estimate",
    "FactorialAnalysis",
    "GroupDifference",
    "MeanBias",
    "NullRate",
    "PairedIncrease",
    "PredictedReliability",
    "RankMatrix",
    "Relation",
    "Reliability",
    "ReliabilityDiagram",
    "ResponseCurve",
    "Thresholds",
    "TrackingMetrics",
    "UsablePasses",
    "adaptive_calibration_error",
    "advantages",
    "ambiguity_estimates",
    "ambiguity_report",
    "ambiguity_targets",
    "auroc",
    "auroc_differences",
    "auroc_high",
    "auroc_low",
    "bootstrap",
    "bootstrap_p",
    "brier_score",
    "clustered_ambiguity",
    "clustered_spearman_differences",
    "corrected",
    "debiased_ece",
    "debiased_squared_calibration_error",
    "disattenuated",
    "entropy",
    "expected_calibration_error",
    "factorial_analysis",
    "group_differences",
    "holm",
    "icc_from_snr",
    "margin",
    "mean_bias",
    "negative_log_likelihood",
    "normal_p",
    "null_pass_rate",
    "partial_spearman",
    "permutation_p",
    "predicted_reliability",
    "prompt_sensitivity",
    "proportion",
    "rank_matrix",
    "rank_relations",
    "reliability",
    "reliability_diagram",
    "response_curve",
    "sigmoid_entropy",
    "sigmoid_margin",
    "smallest_usable_passes",
    "spearman",
    "spearman_differences",
    "spearman_permutation_p",
    "stacked_drift",
    "status_of",
    "tracking_metrics",
    "trial_drift",
    "wilcoxon_increase",
]
