"""The wheel holds exactly our three packages, and the image's install steps work in a clean place."""

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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_install_script_works_in_a_clean_environment(tmp_path: Path) -> None:
    """The Dockerfile's steps, run without our environment, give a command that answers."""
    target = tmp_path / "venv"
    finished = subprocess.run(
        ["sh", str(ROOT / "deploy" / "install.sh"), str(ROOT), str(target)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    shown = subprocess.run(
        [str(target / "bin" / "llm-optimizer"), "version"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "0.1.0" in shown.stdout
