"""Which sites and score follow damage, and is that so on images that chose nothing?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments.recipe.choice import CHOSEN_ON
from mcdo.experiments.recipe.experiment import RecipeSearch
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.harness import Completed, Images
from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.recipes import read_recipe
from mcdo.recipes.file import EncoderIdentity
from mcdo.recipes.scoring import AppliedRecipe

pytestmark = of_experiment(RecipeSearch)

test_claims = claims_of(RecipeSearch)
test_contract = contract_of(RecipeSearch)


def test_no_origin_is_both_chosen_on_and_reported_on(completed: Completed[RecipeResult]) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, RecipeSearch)
    images = completed.inputs.images(Images(experiment.n))
    reporting = set(images.origins) - result.reported.choice.origins
    assert len(reporting) >= len(result.reported.choice.origins)
    assert result.reported.shares["chosen", CHOSEN_ON].n == len(reporting)
    assert result.confirmation.gains[CHOSEN_ON].estimate.n == len(reporting)


def test_the_map_has_every_site_and_its_shares_add_up(completed: Completed[RecipeResult]) -> None:
    result = completed.result
    for found in result.maps.values():
        assert set(result.tower.names) <= set(found)
        np.testing.assert_allclose(sum(found[name].share.value for name in result.tower.names), 1)
        roles = dict.fromkeys(result.tower.roles)
        np.testing.assert_allclose(sum(found[role].share.value for role in roles), 1)
        assert all(0 <= e.value <= 1 for entry in found.values() for e in entry.raised.values())


def test_the_recipe_is_read_back_and_is_of_the_encoder(
    completed: Completed[RecipeResult], record_property: Callable[[str, object], None]
) -> None:
    path = next(path for path in completed.files if path.name == "recipe.json")
    recipe, result = read_recipe(path), completed.result
    assert recipe.encoder == EncoderIdentity.of(completed.inputs.encoder())
    recipe.check(completed.inputs.encoder())
    assert {site.name: site.weight for site in recipe.sites if site.weight} == result.weights
    assert [site.name for site in recipe.sites] == list(result.tower.names)
    blocks = [site.block for site in recipe.sites if site.block is not None]
    assert blocks == sorted(blocks)
    families = {response.family for response in recipe.responses}
    assert {"blur", "down"} <= families
    record_property("statement", result.statement)
    for over in result.reported.inside:
        record_property(f"optimism over {over}", result.reported.optimism(over))


def test_the_recipe_gives_the_scores_that_it_was_calibrated_on(completed: Completed[RecipeResult]) -> None:
    """Whoever applies it draws the same probes, so that quantiles are of the same score."""
    inputs, experiment = completed.inputs, completed.experiment
    recipe = read_recipe(next(path for path in completed.files if path.name == "recipe.json"))
    if inputs.settings.from_store or recipe.estimator.probes is None:
        pytest.skip("it is applied by first order, with the encoder itself")
    calibrated = experiment.scored(inputs, completed.result)  # type: ignore[attr-defined]
    assert recipe.calibration.fingerprint == calibrated.fingerprint
    few = calibrated.select(slice(6))
    applied = AppliedRecipe(recipe).score(
        few, encoder=inputs.encoder(), false_alarm=0.5, families=(), trials=1, progress=False
    )
    measured = completed.result.chosen.clean[0, :6, 0]
    np.testing.assert_allclose(applied.score, measured, rtol=1e-3)
