"""The wheel holds exactly our three packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_wheel_holds_exactly_three_packages(tmp_path: Path) -> None:
    """Nothing but proxy, optimizer and policies is installed, with the data they need."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("llm_optimizer-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name.partition("/")[0]}

    assert tops == {"proxy", "optimizer", "policies"}
    assert "proxy/prices.json" in names
    migrations = "optimizer/control_store/migrations/"
    assert {f"{migrations}env.py", f"{migrations}versions/v0001_records.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
