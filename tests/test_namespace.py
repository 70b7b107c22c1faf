"""`diffkit` is a namespace that the packages share (PEP 420), and their imports go downwards only."""

import subprocess
import sysconfig
from pathlib import Path


def packages(root: Path) -> list[Path]:
    """The source folder of each package: shared/core/src/diffkit/core, packages/*/src/diffkit/*."""
    return [path for path in root.glob("*/*/src/diffkit/*") if path.name != "__pycache__"]


def test_no_package_owns_the_namespace(root: Path):
    assert packages(root)
    assert not list(root.glob("*/*/src/diffkit/*.py")), "a file here hides every other package of diffkit"


def test_each_package_is_complete(root: Path):
    for package in packages(root):
        home = package.parents[2]
        assert (package / "py.typed").is_file(), f"{package}: no py.typed, so its types stay unseen"
        for name in ("README.md", "CHANGELOG.md"):
            assert (home / name).read_text().strip(), f"{home}: an empty {name}"
        assert (home / "LICENSE").read_text() == (root / "LICENSE").read_text()


def test_imports_keep_the_contracts(root: Path):
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    run = subprocess.run([lint, "--no-cache"], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
