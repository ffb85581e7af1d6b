from __future__ import annotations

import pytest

from tests.trainers.images import folders


@pytest.fixture(scope="session")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folders.stable_diffusion(tmp_path_factory.mktemp("diffusers") / "sd")


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folders.stable_diffusion_xl(tmp_path_factory.mktemp("diffusers") / "xl")


@pytest.fixture(params=["sd", "xl"])
def base(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))
