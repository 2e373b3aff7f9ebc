"""Every request is answered as it was when the answers were recorded, to the byte."""

import re
from pathlib import Path

import pytest

from tests.recorded.artefacts import export_all
from tests.recorded.client import STREAMS
from tests.recorded.families import FAMILIES
from tests.recorded.player import ANSWERS, blocks, difference, play, written
from tests.recorded.server import HERE

LEAST = 500


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_all(tmp_path_factory.mktemp("recorded") / "artifacts")


def recorded(name: str) -> str:
    return (ANSWERS / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_the_recorded_ones(name: str, artefacts: Path) -> None:
    """Status, headers in their order, body, frames and close codes are what they were."""
    found = written(play(FAMILIES[name], HERE, artefacts))
    if text := difference(recorded(name), found):
        pytest.fail(f"{name}: {text}", pytrace=False)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.both_ways])
def test_answers_are_the_same_without_the_fast_path(name: str, artefacts: Path) -> None:
    """What FastAPI answers equals what the fast path does."""
    found = written(play(FAMILIES[name], HERE, artefacts, fast_path=False))
    if text := difference(recorded(name), found):
        pytest.fail(f"{name}: {text}", pytrace=False)


def test_every_operation_is_recorded() -> None:
    """Each operation of the API's description, and each stream, has been answered with success; 500 requests in all."""
    heads = [block.split("\n", 1)[0] for name in FAMILIES for block in blocks(recorded(name))]
    assert len(heads) >= LEAST
    done = {match[1] for head in heads if (match := re.fullmatch(r"=== \d+ (.*) (?:2\d\d|101)", head))}
    described = next(block for block in blocks(recorded("server")) if " GET /openapi.json 200\n" in block)
    operations = set(re.findall(r"(?m)^< ((?:GET|POST|PUT|PATCH|DELETE) /\S*) \{", described))
    assert len(operations) > 30
    assert operations | {f"WS {path}" for path in STREAMS} <= done


def test_every_file_of_answers_is_played() -> None:
    """No answers are left over from a family that is not there any more."""
    assert {file.stem for file in ANSWERS.glob("*.txt")} == set(FAMILIES)
