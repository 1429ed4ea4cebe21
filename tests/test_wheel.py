"""The wheel: what is in it, and that it works away from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # a copy, so that no build/ is left in the checkout
    source = folder / "source"
    files = ["pyproject.toml", "README.md", "LICENSE", "modeling_dvpo", "training", "hub_cards"]
    source.mkdir()
    subprocess.run(["cp", "-r", *files, source], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_only_our_own_name_lands_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"modeling_dvpo", "modeling_dvpo-0.1.0.dist-info"}


def test_it_holds_every_module_and_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.jinja", "*.html", "*.css", "*.js", "*.yaml", "metrics/*/README.md", "requirements.txt")
    expected = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "modeling_dvpo").rglob(kind)}
    for folder in ("training", "hub_cards"):
        files = [path for kind in kinds for path in (ROOT / folder).rglob(kind)]
        expected |= {f"modeling_dvpo/{path.relative_to(ROOT)}" for path in files}
    assert len(expected) > 100
    assert expected | {"modeling_dvpo/py.typed"} <= names


def test_it_works_from_any_directory(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import modeling_dvpo, modeling_dvpo.training.train_critic as script\n"
        "assert modeling_dvpo.__file__.startswith(sys.argv[1]) and script.__file__.startswith(sys.argv[1])\n"
        "print(modeling_dvpo.quantile_levels(2).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, site], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[0.25, 0.75]", done.stderr
