"""Whose packages are these: stand-ins for environments that are fine and for those that are not."""

from pathlib import Path

import pytest

from proxy.cli import identity


def distribution(directory: Path, name: str, *, record: str = "", top_level: str = "") -> None:
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: {name}\n")
    if record:
        (metadata / "RECORD").write_text(record)
    if top_level:
        (metadata / "top_level.txt").write_text(top_level)


def test_this_environment_is_fine() -> None:
    """Otherwise nothing else here would mean anything."""
    assert identity.problems() == []


def test_our_own_distribution_is_no_stranger(tmp_path: Path) -> None:
    """Wheel and editable install, however the name is spelled on disk."""
    distribution(tmp_path / "a", "llm_optimizer", record="proxy/__init__.py,sha256=x,1\n")
    distribution(tmp_path / "b", "llm_optimizer", top_level="optimizer\npolicies\nproxy\n")

    assert identity.problems([str(tmp_path / "a"), str(tmp_path / "b")]) == []


@pytest.mark.parametrize(
    "files",
    [
        {"record": "proxy/__init__.py,sha256=x,1\n"},
        {"record": "a.py,,\nproxy/__init__.py,sha256=x,1\n"},
        {"top_level": "proxy\n"},
    ],
)
def test_another_owner_of_a_name_is_refused_with_a_way_out(tmp_path: Path, files: dict[str, str]) -> None:
    """The real case is PyPI's proxy.py."""
    distribution(tmp_path, "llm_optimizer", record="proxy/__init__.py,sha256=y,1\n")
    distribution(tmp_path, "proxy.py", **files)

    (problem,) = identity.problems([str(tmp_path)])

    assert "proxy-py" in problem
    assert "uninstall" in problem


@pytest.mark.parametrize(
    "record", ["my_proxy/__init__.py,,\n", "other/proxy/__init__.py,,\n", "proxy/other.py,,\n"]
)
def test_similar_names_are_not_ours(tmp_path: Path, record: str) -> None:
    """Only the top-level package itself collides."""
    distribution(tmp_path, "similar", record=record)

    assert identity.problems([str(tmp_path)]) == []


def test_packages_from_two_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named like one of ours that comes first on the path."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "policies", raising=False)

    problems = identity.problems([])

    assert any("one place" in problem for problem in problems)
