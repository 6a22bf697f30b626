"""A simulated platform and an offline model for whole processes of larkline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_kit import Gateway

from larkline.sim.model import OfflineModel
from larkline.sim.platform import Platform


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as there:
        yield there


@pytest.fixture
async def model() -> AsyncIterator[OfflineModel]:
    async with OfflineModel(rate=200) as there:
        yield there


@pytest.fixture
async def gateway(
    platform: Platform, model: OfflineModel, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway that is not started yet."""
    there = Gateway(platform, model, tmp_path)
    yield there
    await there.close()
