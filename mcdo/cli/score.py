"""``mcdo score``: a number for each of one's own images, under a recipe."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.errors import McdoError
from mcdo.names import message, say, say_text, words

if TYPE_CHECKING:
    from mcdo.recipes import Recipe
    from mcdo.recipes.scoring import RecipeScores

INTERRUPTED = 130
_SHOWN = 5


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser(
        "score",
        help="score one's own images under a recipe",
        description="A row for each image: score, quantile within the recipe's calibration set, flag, and the damage "
        "that it amounts to. A run that was killed goes on where it was when the same command is given again.",
    )
    parser.add_argument("--recipe", default=None, help="recipe.json, or default:KEY of an embedded encoder")
    parser.add_argument("--images", default=None, help='image set, as pytest takes it: "folder:PATH" or "digits"')
    parser.add_argument("--out", type=Path, default=Path("scores.csv"), help="a .csv or .parquet (default: scores.csv)")
    parser.add_argument("--num-images", type=int, default=None, metavar="N", help="a sample of them (default: all)")
    parser.add_argument("--false-alarm", type=float, default=None, metavar="RATE", help="of the flag (default: 0.05)")
    parser.add_argument(
        "--as",
        dest="families",
        default=None,
        metavar="FAMILY,...",
        help='families of damage for "as uncertain as" (default: blur, or the first that the score rises with)',
    )
    parser.add_argument(
        "--trials", type=int, default=None, metavar="K", help="repetitions for the error; 1: none (default: 3)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--encoder", default=None, help="where the recipe's encoder is now, if its key is another")
    parser.add_argument("--seed", type=int, default=42, help="of the sample and of random weights (default: 42)")
    parser.add_argument("--store", default="store", help="where chunks are kept; none: nowhere (default: store)")
    parser.add_argument("--batch-size", type=int, default=None, help="rows of one forward pass")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out unreadable images, and name them")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Score, write the table, and say what stands out."""
    from mcdo.recipes.file import MAKE

    if asked.recipe is None:
        raise McdoError(f"name a recipe with --recipe=recipe.json, or --recipe=default:clip_tiny; {MAKE}")
    if asked.images is None:
        raise McdoError("name the images with --images=folder:PATH")
    with warnings.catch_warnings():
        warnings.showwarning = lambda said, *where: say_text(message(f"mcdo: {said}"), sys.stderr)  # a line, no code
        return _scored(asked)


def _scored(asked: argparse.Namespace) -> int:
    from mcdo.encoders.load import best_device
    from mcdo.images import load_images
    from mcdo.recipes.scoring import FALSE_ALARM, TRIALS, check_out, load_recipe, threshold_of

    check_out(asked.out)
    applied = load_recipe(asked.recipe)
    rate = FALSE_ALARM if asked.false_alarm is None else asked.false_alarm
    threshold_of(applied.recipe, rate)  # what is wrong with it costs no pass
    encoder = applied.encoder(best_device(asked.device), key=asked.encoder, seed=asked.seed)
    images = load_images(asked.images, asked.num_images, asked.seed, skip_unreadable=asked.skip_unreadable)
    families = None if asked.families is None else words(asked.families)
    try:
        found = applied.score(
            images,
            encoder=encoder,
            false_alarm=rate,
            families=families,
            trials=TRIALS if asked.trials is None else asked.trials,
            store=None if asked.store == "none" else asked.store,
            batch_size=asked.batch_size,
        )
    except KeyboardInterrupt:
        if asked.store == "none":
            say("mcdo: interrupted; with --store=none nothing is kept", sys.stderr)
        else:
            say(f"mcdo: interrupted; what was done is in {asked.store}, and the same command goes on", sys.stderr)
        return INTERRUPTED
    out = found.write(asked.out)
    for line in _lines(found, images.name, str(out)):
        say(line)
    for each in images.skipped:
        say(f"left out: {each.path}: {each.reason}")
    return 0


def _on_damage(recipe: Recipe, shown: Mapping[str, Any]) -> list[str]:
    """Which damage the score can be read as, and why not the rest."""
    rising = [each.family for each in recipe.responses if each.shape == "rising"]
    not_read = [f"{each.family} ({each.reason or each.shape})" for each in recipe.responses if each.shape != "rising"]
    more = [family for family in rising if family not in shown]
    return [
        *(["no severity can be read of " + ", ".join(not_read)] if not_read else []),
        *([f"more can be read with --as={','.join((*shown, *more))}"] if more and rising else []),
    ]


def _lines(found: RecipeScores, images: str, out: str) -> list[str]:
    from mcdo.report.terminal import Table, lines

    recipe, verdict = found.recipe, found.recipe.verdict
    said = f"; {verdict.statement}" if verdict.statement else ""
    flagged = int(found.flagged.sum())
    heading = (
        "image",
        "score",
        "quantile",
        "flag",
        *(f"as uncertain as {each.family}" for each in found.equivalents.values()),
    )
    most = found.score.argsort(kind="stable")[::-1][:_SHOWN]
    rows = tuple(
        (
            found.ids[i],
            f"{found.score[i]:.4g}",
            f"{found.quantile[i]:.3f}",
            "yes" if found.flagged[i] else "",
            *(each.text(int(i)) for each in found.equivalents.values()),
        )
        for i in most
    )
    held = recipe.calibration
    elsewhere = (
        f"quantile, flag and damage are relative to {held.images}; for images of another kind make a recipe of them: "
        f"python -m pytest -m recipe --models={recipe.encoder.key} --images={images}"
    )
    closing = [
        f"{recipe.name}: reliability {verdict.reliable}, validity {verdict.valid}{said}",
        f"{len(found.ids):,} images; {flagged:,} flagged above {found.threshold:.4g}, which at most "
        f"{found.false_alarm:g} of images such as the {held.n} of {held.images} exceed",
        *([] if images == held.images else [elsewhere]),
        *_on_damage(recipe, found.equivalents),
        f"{found.outside.value:.1%} score outside the range of the calibration set",
        out,
    ]
    return lines([Table("The most uncertain", heading, rows)], closing, sys.stdout.encoding)
