"""Where a first-order run may be read as Monte Carlo: for the scores, the p and the sites that were compared.

Ranking and level are two domains: where the ranking holds, first order may rank, whatever its level.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.stats.agreement import Agreement, agreement
from mcdo.stats.means import ratio_of_means
from mcdo.stats.resampling import Estimate

if TYPE_CHECKING:
    from mcdo.estimators import FirstOrderRun, MonteCarloRun, PairedRun


def compared_scores() -> tuple[str, ...]:
    """Scores that both estimators have, each by a definition of its own."""
    from mcdo.estimators import names_from

    to_first_order = names_from("terms")
    return tuple(name for name in names_from("moments") if name in to_first_order)


def with_domain(linear: FirstOrderRun, *runs: MonteCarloRun, **resampling: Any) -> FirstOrderRun:
    """``linear`` with the validity domain that ``runs`` measure; afterwards its scores warn outside of it.

    Args:
        linear: the first-order run.
        runs: Monte Carlo runs of at least two trials on all or some of its images, each with its own p and sites.
        resampling: ``seed``, ``resamples`` and ``level`` of :func:`~mcdo.stats.agreement`.

    Raises:
        McdoError: for a run of another encoder, of other images, or at sites that ``linear`` does not have; for few
            probes in fewer than five trials, for then nothing shows what other probes would have said.

    """
    from mcdo.estimators import FirstOrderRun, MonteCarloRun

    arguments.instance("linear", linear, FirstOrderRun, "give what mcdo.first_order returns, then runs")
    domain: dict[tuple[str, float, frozenset[str]], Agreement] = dict(linear.domain)  # type: ignore[arg-type]
    shared = linear.config.probes <= linear.features.shape[1]  # D + 1 probes leave no noise
    places = {name: i for i, name in enumerate(linear.ids)}
    for run in runs:
        arguments.instance("run", run, MonteCarloRun, "give what mcdo.monte_carlo returns")
        missing = [name for name in run.ids if name not in places]
        sites = frozenset(name for name, _ in run.sites)
        unknown = sites - {name for name, _ in linear.sites}
        if run.encoder != linear.encoder or missing or unknown:
            told = [
                f"of {run.encoder}" if run.encoder != linear.encoder else "",
                f"on {len(missing)} images that it does not have, such as {missing[0]}" if missing else "",
                f"at sites that it does not have, {', '.join(sorted(unknown))}" if unknown else "",
            ]
            said = " and ".join(part for part in told if part)
            raise McdoError(f"first order of {linear.encoder} cannot be compared with a run {said}")
        columns, p = np.array([places[name] for name in run.ids]), run.config.dropout.p
        for score in compared_scores():
            others = linear.scores(score, p, sorted(sites))[:, columns]
            domain[score, p, sites] = agreement(
                run.scores(score), others, origins=run.origins, shared_noise=shared, **resampling
            )
    return replace(linear, domain=domain)


def linearity(pair: PairedRun, score: str = "trace_pre", **resampling: Any) -> Estimate:
    """Mean over images of ``score`` of passes, over that of the linear part of the same masks.

    One where the tower is straight for what the perturbation does; below, where it gives way to drops that are not
    small, so that first order says too much; above, where it does not. The masks are the same, so that few passes tell.

    Args:
        pair: passes and their linear part, such as of a single site.
        score: that both have.
        resampling: ``shared_noise``, ``seed``, ``resamples`` and ``level`` of :func:`~mcdo.stats.ratio_of_means`.

    """
    return ratio_of_means(*pair.both(score), origins=pair.passes.origins, **resampling)
