"""Our score: how many dimensions of the feature the passes disagree in."""

import mcdo


@mcdo.register_score("moments")
def disagreeing_dims(moments):
    """Participation ratio of the variances over passes: from 1, one dimension holds all, to D; 0 where passes agree."""
    variance = moments.variance
    squares = (variance**2).sum(dim=-1)
    return (variance.sum(dim=-1) ** 2 / squares).where(squares > 0, 0.0)  # a few passes may have dropped nothing
