from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from test_estimators_scores import reference
from tiny_tower import tiny_encoder
from torch import Tensor

from mcdo.encoders import Encoder, load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import DimensionWeights, MonteCarloRun, census, monte_carlo, names_from, provenance
from mcdo.estimators.blocks import is_out_of_memory
from mcdo.images import ImageSet, load_images, prepare_pixels
from mcdo.perturbation import (
    PASS_BLOCK,
    Dropout,
    count_by_role,
    deterministic_features,
    find_sites,
    image_keys,
    perturbed,
)
from mcdo.threads import one_thread

KEYS = ("clip_tiny", "siglip_tiny")
DROPOUT = Dropout(0.05)
SCORES_OF_VARIANCE = ("trace_pre", "trace_post", "mean_cosine_dev", "max_dim_var", "mean_shift", "top_eigenvalue")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Tests here change their number."""
    with one_thread():
        yield


def fresh(key: str) -> Encoder:
    return tiny_encoder() if key == "tiny" else load_encoder(key, weights="random")


@cache
def encoder_of(key: str) -> Encoder:
    return fresh(key)


@cache
def digits(n: int = 6) -> ImageSet:
    return load_images("digits", n=n)


def run(key: str = "tiny", images: ImageSet | None = None, dropout: Dropout = DROPOUT, **options: Any) -> Any:
    protocol: dict[str, Any] = {"passes": (4, 16, 20), "trials": 2, "progress": False} | options
    return monte_carlo(encoder_of(key), digits() if images is None else images, dropout, **protocol)


@cache
def whole_of(key: str = "tiny") -> Any:
    """What most tests compare with."""
    return run(key)


def pixels_of(encoder: Encoder, images: ImageSet) -> Tensor:
    preprocessing = encoder.preprocessing
    return prepare_pixels(images, encoder.to_uint8, preprocessing.mean, preprocessing.std).batch(slice(None))


def same(one: MonteCarloRun, other: MonteCarloRun, names: Any = None) -> list[tuple[str, int]]:
    """(score, T) that are not equal bit for bit."""
    names = one.score_names if names is None else names
    every = [(name, t) for name in names for t in one.config.passes]
    return [(n, t) for n, t in every if not np.array_equal(one.scores(n, t), other.scores(n, t))]


def close(one: MonteCarloRun, other: MonteCarloRun, scores: Any = SCORES_OF_VARIANCE, rtol: float = 1e-5) -> None:
    for name in scores:
        for t in one.config.passes:
            np.testing.assert_allclose(one.scores(name, t), other.scores(name, t), rtol=rtol, err_msg=f"{name} {t}")


# ---- what is measured


@pytest.mark.parametrize("key", KEYS)
def test_scores_are_those_of_the_passes_themselves(key: str) -> None:
    encoder, images = encoder_of(key), digits()
    pixels, keys = pixels_of(encoder, images), image_keys(images.ids)
    plain = deterministic_features(encoder, pixels)
    found = run(key, seed=3)
    with perturbed(encoder, DROPOUT, seed=3) as tower:
        for trial in range(2):
            passes = torch.cat([tower(pixels, keys, trial, 0), tower(pixels, keys, trial, 1, 0, 4)], dim=1)
            for t in (4, 16, 20):
                for i in range(len(images)):
                    expected = reference(passes[i, :t].double().numpy(), plain[i].double().numpy())
                    for name, value in expected.items():
                        got = found.scores(name, t)[trial, i]
                        assert got == pytest.approx(value, rel=1e-6 if name == "angular_var" else 1e-8), (name, t)
    np.testing.assert_array_equal(found.features, plain.numpy())
    relative = found.scores("trace_pre") / (plain.double().numpy() ** 2).sum(1)
    np.testing.assert_allclose(found.scores("trace_pre_relative"), relative, rtol=1e-12)
    assert found.scores("trace_pre").shape == (2, 6)
    assert found.scores("trace_pre").dtype == np.float64
    assert found.eigenvalues(16).shape == (2, 6, 10)
    np.testing.assert_array_equal(found.eigenvalues(16)[..., 0], found.scores("top_eigenvalue", 16))


@pytest.mark.parametrize("key", KEYS)
def test_without_dropout_traces_are_exactly_zero(key: str) -> None:
    found = run(key, dropout=Dropout(0.0), passes=(2, 5, 23))
    for name in (*SCORES_OF_VARIANCE, "norm_var", "angular_var", "trace_pre_relative"):
        assert all(np.count_nonzero(found.scores(name, t)) == 0 for t in (2, 5, 23)), name


def test_trials_and_seeds_differ_for_every_image() -> None:
    found, other = whole_of(), run(seed=43)
    trace = found.scores("trace_pre")
    assert (trace[0] != trace[1]).all()
    assert (trace != other.scores("trace_pre")).all()
    assert same(found, run()) == []


@pytest.mark.parametrize("sites", ["mlp", ("attention", "projection"), "conv1"])
def test_only_the_sites_asked_for_are_perturbed(sites: Any) -> None:
    found = run(dropout=Dropout(0.05, sites))
    assert not np.allclose(found.scores("trace_pre"), whole_of().scores("trace_pre"))
    assert found.roles == {"mlp": ("fc1", "fc2"), "conv1": ("patch_embedding",)}.get(
        sites if isinstance(sites, str) else "", ("qkv", "attention_output", "final_projection")
    )


# ---- T, batches, order


@pytest.mark.parametrize("key", KEYS)
def test_scores_at_t_are_those_of_a_run_that_stops_there(key: str) -> None:
    def stopping(*passes: int) -> Any:
        return run(key, digits().select(slice(0, 2)), passes=passes)

    long = stopping(4, 16, 32, 40)
    assert same(stopping(4, 16, 32), long) == []
    assert same(stopping(4, 16), long) == []
    # A last block that is cut short has other matrix sizes, and a T that is left out another order of additions.
    close(stopping(4), long)
    close(stopping(4, 20), stopping(4, 20, 40))
    close(stopping(32), long)


@pytest.mark.parametrize(
    ("key", "batch_size"),  # less than a pass of all, a block of them, several blocks
    [("clip_tiny", 1), ("siglip_tiny", 3), ("clip_tiny", 50), ("siglip_tiny", 50)],
)
def test_scores_do_not_depend_on_the_batch_size(key: str, batch_size: int) -> None:
    whole = whole_of(key).select(slice(3, 6), slice(0, 1))
    part = run(key, digits().select(slice(3, 6)), trials=1, batch_size=batch_size)
    close(part, whole)
    # second differences of float32 features: absolutely as exact, relatively less where the score is tiny
    close(part, whole, whole.score_names, rtol=2e-4)
    assert np.allclose(whole.features, part.features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", KEYS)
def test_scores_do_not_depend_on_order_nor_on_the_other_images(key: str) -> None:
    order = np.array([4, 0, 5, 2, 1, 3])
    whole = whole_of(key)
    close(whole.select(order), run(key, digits().select(order)))
    close(whole.select([1, 4]), run(key, digits().select([1, 4])))


@cache
def in_two_batches(key: str) -> Any:
    return run(key, batch_size=3 * PASS_BLOCK)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("key", KEYS)
def test_shards_of_whole_batches_give_the_same_bits_on_any_number_of_threads(key: str, threads: int) -> None:
    options: dict[str, Any] = {"batch_size": 3 * PASS_BLOCK}
    whole = in_two_batches(key)
    torch.set_num_threads(threads)
    for part in (slice(0, 3), slice(3, 6)):
        shard = run(key, digits().select(part), **options)
        assert same(whole.select(part), shard) == []
        assert np.array_equal(whole.features[part], shard.features)
    assert same(whole, run(key, **options)) == []
    assert torch.get_num_threads() == threads


def test_geometry_is_taken_where_asked_for_only() -> None:
    found = run(geometry=(16,))
    assert found.scores("angular_var", 16).shape == (2, 6)
    with pytest.raises(McdoError, match=r"angular_var was not taken at T = 20; it was at T = \[16\]"):
        found.scores("angular_var")
    with pytest.raises(McdoError, match="no spectrum at T = 4"):
        found.eigenvalues(4)
    assert "angular_var" not in run(geometry=()).score_names
    assert same(found, whole_of(), SCORES_OF_VARIANCE[:-1]) == []


def test_prepared_pixels_may_be_handed_over_or_made_when_needed() -> None:
    encoder, images = encoder_of("tiny"), digits()
    pixels = prepare_pixels(images, encoder.to_uint8, encoder.preprocessing.mean, encoder.preprocessing.std)
    assert same(run(pixels=pixels), whole_of()) == []
    assert same(run(pixels=lambda: pixels), whole_of()) == []
    with pytest.raises(McdoError, match="6 prepared pixels for 2 images of digits"):
        run(images=digits().select([0, 1]), pixels=pixels)


def test_weights_of_dimensions_add_their_scores_and_refuse_their_own_images() -> None:
    calibration = load_images("digits:train", n=20)
    features = monte_carlo(
        encoder_of("tiny"), calibration, Dropout(0.0), passes=(2,), trials=1, progress=False
    ).features
    weights = DimensionWeights.fit(features, calibration.origins, k=5)
    found = run(weights=weights)
    assert found.scores("weighted_trace").shape == found.scores("topk_trace").shape == (2, 6)
    assert same(whole_of(), found) == []
    with pytest.raises(McdoError, match="of the scored originals were calibrated on"):
        run(images=calibration.select([0]), weights=weights)


# ---- memory


def limited(encoder: Encoder, rows: int, error: Callable[[], BaseException]) -> list[int]:
    """Let the tower run out of memory above ``rows`` rows; returns the sizes that were tried."""
    image, tried = encoder.towers.image, []

    def forward(pixels: Tensor) -> Tensor:
        tried.append(len(pixels))
        if len(pixels) > rows:
            raise error()
        return image(pixels)

    encoder.towers = replace(encoder.towers, image=forward)
    return tried


def no_memory_on_the_cpu() -> BaseException:
    try:
        torch.empty(2**55)
    except RuntimeError as error:
        return error
    raise AssertionError


def test_each_device_says_in_its_own_way_that_memory_ran_out() -> None:
    cuda, mps = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (9 GB)")
    assert all(map(is_out_of_memory, (cuda, mps, MemoryError(), no_memory_on_the_cpu())))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_running_out_of_memory_halves_the_batch_and_keeps_the_numbers() -> None:
    encoder = fresh("tiny")
    whole = monte_carlo(encoder, digits(), DROPOUT, (4, 20), 2, progress=False)
    tried = limited(encoder, 40, no_memory_on_the_cpu)
    halved = monte_carlo(encoder, digits(), DROPOUT, (4, 20), 2, progress=False)
    assert max(tried) == 6 * PASS_BLOCK
    close(whole, halved)
    assert not np.isnan(halved.scores("trace_pre")).any()


def test_blocks_that_run_out_of_memory_together_halve_the_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fresh("tiny")
    whole = monte_carlo(encoder, digits(), DROPOUT, (4,), 1, batch_size=4, progress=False)
    together = threading.Barrier(2, timeout=20)

    def error() -> BaseException:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        return MemoryError()

    tried = limited(encoder, 3, error)  # three rows find the sites
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # of blocks, not of each operation
    halved = monte_carlo(encoder, digits().select([0, 1]), DROPOUT, (4,), 1, batch_size=4, progress=False)
    assert (tried.count(4), tried.count(2)) == (2, 4)
    close(whole.select(np.array([0, 1])), halved)


@pytest.mark.parametrize("warm", [False, True])
def test_too_little_memory_for_one_row_is_an_error_that_says_so(warm: bool) -> None:
    encoder = fresh("tiny")
    if warm:
        monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)
    tried = limited(encoder, 0, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(McdoError, match="tiny: out of memory on cpu with one image and one pass at a time"):
        monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)
    assert tried
    with perturbed(fresh("tiny"), DROPOUT, 0):
        pass


def test_other_errors_are_passed_on_and_leave_the_encoder_usable() -> None:
    encoder = fresh("tiny")
    find = encoder.towers
    monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)
    limited(encoder, 0, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)
    encoder.towers = find
    monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)


def test_features_that_are_not_finite_are_an_error_that_names_the_image() -> None:
    encoder = fresh("tiny")
    monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)
    image = encoder.towers.image

    def broken(pixels: Tensor) -> Tensor:
        features = image(pixels).clone()
        if len(features) > 3:  # which find the sites
            features[2] = torch.nan
        return features

    encoder.towers = replace(encoder.towers, image=broken)
    with pytest.raises(McdoError, match=rf"the features of {digits().ids[2]} are not finite"):
        monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": ()}, r"passes = \(\)"),
        ({"passes": (1, 4)}, "each at least 2"),
        ({"passes": (4, 4)}, "ascending order"),
        ({"passes": (8, 4)}, "ascending order"),
        ({"trials": 0}, "trials = 0: at least one"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"geometry": (8,)}, r"geometry = \(8,\) must be among passes = \(4, 16, 20\)"),
        ({"dropout": Dropout(0.1, "pooling_head")}, "this tower has none"),
        ({"dropout": Dropout(0.1, "fc3")}, "did you mean fc2, fc1"),
    ],
)
def test_an_impossible_protocol_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(McdoError, match=message):
        run(**options)


def test_whole_numbers_of_numpy_are_welcome() -> None:
    found = run(passes=np.array([4, 16, 20]), trials=np.int64(2), seed=np.int64(42))
    assert same(found, whole_of()) == []
    assert found.config == whole_of().config


# ---- census and provenance


@pytest.mark.parametrize("key", KEYS)
def test_census_lists_every_requested_site_with_its_variance(key: str) -> None:
    records = census(encoder_of(key), digits(), Dropout(0.05), limit=3)
    assert [(r.name, r.role) for r in records] == list(whole_of(key).sites)
    assert all(r.variance > 0 and r.calls == 1 and r.units > 0 for r in records)
    assert [r.variance for r in census(encoder_of(key), digits(), Dropout(0.05), limit=3)] == [
        r.variance for r in records
    ]
    assert {r.variance for r in census(encoder_of(key), digits(), Dropout(0.0), limit=1)} == {0.0}


def test_census_names_a_dead_site() -> None:
    encoder = fresh("tiny")
    dead: Any = encoder.model.get_submodule("mlp.2")
    with torch.no_grad():
        dead.weight.zero_()
        dead.bias.zero_()
    with pytest.raises(McdoError, match=r"dead site mlp\.0, mlp\.2: "):
        census(encoder, digits(), DROPOUT)
    with pytest.raises(McdoError, match="dead site"):
        monte_carlo(encoder, digits(), DROPOUT, (2,), 1, progress=False)


def test_provenance_says_where_numbers_come_from() -> None:
    facts = provenance(encoder_of("tiny"), digits())
    assert facts["weights"] == encoder_of("tiny").weights_hash
    assert facts["images"] == digits().fingerprint
    assert (facts["encoder"], facts["random_weights"], facts["device"]) == ("tiny", True, "cpu")
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "roles"),
    [
        ("clip_b32", {"qkv": 12, "attention_output": 12, "fc1": 12, "fc2": 12, "final_projection": 1}),
        ("siglip2_b16", {"qkv": 12, "attention_output": 12, "fc1": 12, "fc2": 12, "pooling_head": 5}),
    ],
)
def test_towers_of_full_size_are_alive_at_every_site_and_do_not_depend_on_the_batch_size(
    key: str, roles: dict[str, int]
) -> None:
    encoder, images = load_encoder(key, weights="random"), digits(2)
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    none = monte_carlo(encoder, images, Dropout(0.0), (2,), 1, progress=False)  # runs the census
    assert dict(Counter(role for _, role in none.sites)) == roles
    assert np.count_nonzero(none.scores("trace_pre")) == 0
    runs = [monte_carlo(encoder, images, Dropout(0.01), (4,), 1, batch_size=b, progress=False) for b in (8, 3, 1)]
    for part in runs[1:]:
        close(runs[0], part, ("trace_pre", "trace_post"), rtol=1e-4)
        np.testing.assert_allclose(none.features, part.features, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


@pytest.mark.slow
def test_the_largest_clip_has_every_site_and_is_alive_at_both_ends() -> None:
    """A census of all its 97 sites takes five minutes on one core."""
    encoder = load_encoder("clip_l14", weights="random")
    table = find_sites(encoder)
    roles = {"qkv": 24, "attention_output": 24, "fc1": 24, "fc2": 24, "final_projection": 1}
    assert count_by_role(table.select("all")) == roles
    assert {site.calls for site in table.sites} == {1}
    sites = tuple(s.name for s in table.select("all") if re.search(r"\.(0|23)\.|^visual\.proj$", s.name))
    none = monte_carlo(encoder, digits(1), Dropout(0.0, sites), (2,), 1, progress=False)
    assert [name for name, _ in none.sites] == list(sites)
    assert len(sites) == 9
    assert np.count_nonzero(none.scores("trace_pre")) == 0
    whole, split = (
        monte_carlo(encoder, digits(1), Dropout(0.01, sites), (2,), 1, batch_size=rows, progress=False)
        for rows in (2, 1)
    )
    close(whole, split, ("trace_pre", "trace_post"), rtol=1e-4)


# ---- the run


def test_a_selection_holds_the_chosen_images_and_trials_only() -> None:
    found = run(trials=3)
    for columns in (np.array([5, 0]), [5, 0], slice(1, 4), np.arange(6) > 3):
        part = found.select(columns, slice(1, None))
        chosen = np.arange(6)[columns]
        assert part.ids == tuple(found.ids[i] for i in chosen)
        assert part.config == replace(found.config, trials=2)
        assert np.array_equal(part.features, found.features[chosen])
        for t in (4, 16, 20):
            assert np.array_equal(part.scores("angular_var", t), found.scores("angular_var", t)[1:, chosen])
            assert np.array_equal(part.eigenvalues(t), found.eigenvalues(t)[1:, chosen])
    with pytest.raises(McdoError, match="at least one"):
        found.select([0], slice(0, 0))


def test_an_unknown_score_is_an_error_with_the_nearest() -> None:
    with pytest.raises(McdoError, match=r"no score 'trace_prae' in this run; the nearest: trace_pre"):
        whole_of().scores("trace_prae")
    with pytest.raises(McdoError, match=r"trace_pre was not taken at T = 8; it was at T = \[4, 16, 20\]"):
        whole_of().scores("trace_pre", 8)


def test_a_run_says_which_scores_it_has() -> None:
    found = whole_of()
    assert "trace_pre_relative" in found.score_names
    for name in found.score_names:
        assert found.scores(name, 16).shape == (2, 6)
    features, values, eigenvalues = MonteCarloRun.split_arrays(found.arrays())
    assert np.array_equal(features, found.features)
    measured = names_from("moments") + names_from("passes")
    assert found.score_names == (*measured, "trace_pre_relative", "feature_norm")
    assert set(values) == {(name, t) for name in measured for t in (4, 16, 20)}
    assert set(eigenvalues) == {4, 16, 20}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(McdoError, match="say float32, bfloat16, float16"):
        load_encoder("clip_tiny", precision="int8")  # type: ignore[arg-type]
