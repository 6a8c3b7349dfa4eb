"""Our experiment: does our score say anything that the feature norm does not?"""

from dataclasses import dataclass

import mcdo
from mcdo.harness import Claim, Experiment, Files, Images, Passes
from mcdo.report.panels import interval_panel
from mcdo.stats import spearman

SCORE = "disagreeing_dims"


@mcdo.register_experiment
@dataclass(frozen=True)
class NotTheNorm(Experiment):
    """Is our score more than the feature norm under another name?"""

    key = "not_the_norm"
    name = "not_the_norm"
    phase = "ours"
    files = Files(summary="{}/not_the_norm_summary.json", figure="{}/not_the_norm.png")
    quick = {"n": 60, "passes": 16}
    published = (SCORE,)

    n: int = 500
    passes: int = 64

    def run(self, model):
        return Passes(model, Images(self.n), self.protocol((self.passes,), 3))

    def requests(self, about):
        return [self.run(about.model)]

    def compute(self, inputs):
        run = inputs[self.run(inputs.model)]
        return spearman(run.scores(SCORE).mean(axis=0), run.feature_norm, origins=run.origins)

    def claims(self):
        return [Claim("below", lambda rho: rho, below=0.9), Claim("above", lambda rho: rho, above=-0.9)]

    def summary(self, result):
        return {"rho_with_the_norm": result.as_dict()}

    def panels(self, inputs, result):
        return [lambda axes: interval_panel(axes, {"rho with the norm": {inputs.model: result}}, 0.9, "rho [95 %]")]
