"""The catalogue of docs/resuming.md: our side of every case, and that the page tells of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.__main__ import DOC
from tests.catalogue.cases import CASES
from tests.catalogue.sides import ours
from tests.catalogue.world import Case, World, build_world, copy_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("catalogue"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_told_no_later_than_it_can_be(case: Case, world: World) -> None:
    told = ours(case, world, copy_of(world, case.name, "test"))
    assert (told.when.split()[0], told.went_on) == (case.when, case.goes_on), told.what


def test_the_page_tells_of_every_case() -> None:
    page = Path(DOC).read_text(encoding="utf-8")
    assert [case.name for case in CASES if f"| {case.name} |" not in page] == []
