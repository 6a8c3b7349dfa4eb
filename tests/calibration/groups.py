"""Every interval of the suite."""

from __future__ import annotations

import of_quantities
import of_scores

GROUPS = (*of_scores.GROUPS, *of_quantities.GROUPS)
