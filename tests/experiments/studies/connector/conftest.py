"""What the connector study runs on: a connector trained on each of --models, or a LLaVA checkpoint of one's own.

Options: --llava-json=FILE and --image-root=FOLDER (data), --connector-model=FOLDER (a transformers LLaVA checkpoint),
--max-seq-len=N (default 512).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from connector_subjects import Sources, Written

from mcdo.encoders import find_spec
from mcdo.harness import Session, Settings
from mcdo.names import file_name
from mcdo.pytest_plugin.options import settings_from
from mcdo.store import Store
from mcdo.studies.connector import (
    FOLDER,
    ConnectorConfig,
    Data,
    compare,
    digits_data,
    json_data,
    study_encoder,
    study_llava,
    write,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        checkpoint = metafunc.config.getoption("--connector-model", default=None)
        models = () if checkpoint else settings_from(metafunc.config).models
        subjects = [pytest.param(m, id=file_name(m), marks=getattr(pytest.mark, find_spec(m).family)) for m in models]
        metafunc.parametrize("subject", subjects or [pytest.param(str(checkpoint), id="checkpoint")], scope="session")


@pytest.fixture(scope="session")
def sources(pytestconfig: pytest.Config) -> Sources:
    return Sources.of(pytestconfig)


@pytest.fixture(scope="session")
def config(settings: Settings, sources: Sources) -> ConnectorConfig:
    return ConnectorConfig.of(settings.protocol, settings.seed, sources.max_seq_len)


@pytest.fixture(scope="session")
def checkpoints(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store; without one, a folder of this session, so that encoders share the language model's training."""
    return Store(settings.store or tmp_path_factory.mktemp("connector"))


@pytest.fixture(scope="session")
def data(config: ConnectorConfig, sources: Sources, settings: Settings) -> Data:
    if sources.json is None or sources.root is None:
        return digits_data(config)
    return json_data(config, sources.json, sources.root, skip_bad=settings.skip_unreadable)


@contextmanager
def _shown(config: pytest.Config) -> Iterator[None]:
    """Progress bars reach the terminal inside."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with nullcontext() if capture is None else capture.global_and_fixture_disabled():
        yield


@pytest.fixture(scope="session")
def study(
    subject: str,
    sources: Sources,
    config: ConnectorConfig,
    session: Session,
    checkpoints: Store,
    request: pytest.FixtureRequest,
) -> Written:
    settings = session.settings
    with _shown(request.config):
        if sources.model is not None and sources.json is not None and sources.root is not None:
            result = study_llava(
                sources.model, sources.json, sources.root, config, settings.device, skip_bad=settings.skip_unreadable
            )
        else:
            data: Data = request.getfixturevalue("data")
            result = study_encoder(session.encoder(subject), data, config, checkpoints)
    name = "checkpoint" if sources.model else file_name(subject)
    files = write(result, settings.reports / FOLDER / name)
    return Written(result, compare(result.ablations, config.seed), files)
