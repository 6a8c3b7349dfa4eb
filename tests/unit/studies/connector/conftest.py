"""Small untrained connectors of both kinds, on real digits with captions: what is tested here needs no training."""

from __future__ import annotations

import pytest
from connector_cases import Case, llava_case, tiny_case

from mcdo.encoders import Encoder, load_encoder
from mcdo.studies.connector.items import Captioned, digit_items


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("siglip_tiny")


@pytest.fixture(scope="session")
def digits() -> Captioned:
    return digit_items("digits", 64, 0)


@pytest.fixture
def tiny(encoder: Encoder, digits: Captioned) -> Case:
    return tiny_case(encoder, digits)


@pytest.fixture(scope="session")
def llava_once(encoder: Encoder, digits: Captioned) -> Case:
    return llava_case(encoder, digits)


@pytest.fixture
def llava(llava_once: Case) -> Case:
    return llava_once


@pytest.fixture(params=["tiny", "llava"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found
