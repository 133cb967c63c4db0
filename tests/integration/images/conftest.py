from collections.abc import Iterator

import pytest

from tests.integration.images.site import Site, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a service with real storage; a module's tests share it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("site"), patch, networks=["127.0.0.0/8"], max_size="1GiB") as site,
    ):
        yield site
