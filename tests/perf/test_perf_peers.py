"""The same job done by other libraries, where they are installed: ``pip install -e ".[peers]"``."""

from __future__ import annotations

import pytest

from mcdo.experiments.cost.peer_cost import PeerCost
from mcdo.harness.tests import claims_of, contract_of

pytestmark = pytest.mark.perf

test_claims_about_peers = claims_of(PeerCost)
test_contract_of_peer_cost = contract_of(PeerCost)
