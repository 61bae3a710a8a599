"""setup.py: what cannot be built ends with a sentence, and what is packed holds all that its tests need."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "setup.py").exists():
    pytest.skip("the tests do not lie beside setup.py", allow_module_level=True)


def setup(*arguments, before="", **environment):
    """setup.py as pip runs it, after the Python code `before`."""
    script = f"import sys; sys.argv = ['setup.py', *{arguments!r}]; {before}\nexec(open('setup.py').read())"
    command = [sys.executable, "-c", f"__file__ = {str(ROOT / 'setup.py')!r}\n{script}"]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TMC_CUDA": "0", **environment}, capture_output=True, text=True
    )


def sentence(*arguments, **options):
    run = setup(*arguments, **options)
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    return run.stderr.splitlines()[-1]


@pytest.mark.parametrize("version", ["65.5.0", "76.1.0.post2", None])
def test_setuptools_is_missing_or_old(version):
    fake = f"import types; sys.modules['setuptools'] = s = types.ModuleType('setuptools'); s.__version__ = {version!r}"
    fake += "; s.Extension = s.setup = None" if version else "; del s.__version__"
    said = sentence("--version", before=fake)
    assert "setuptools >= 77" in said and (version or "has none") in said and sys.executable in said


def hidden_torch(folder):
    return (
        "import setuptools, importlib.util, site, sysconfig; importlib.util.find_spec = lambda name: None; "
        f"sysconfig.get_path = lambda *a, **k: {str(folder)!r}; site.getsitepackages = list; "
        f"site.getusersitepackages = lambda: {str(folder)!r}"
    )


def test_torch_is_missing_or_old(tmp_path):
    said = sentence("build_ext", before=hidden_torch(tmp_path))
    assert "torch>=2.11 is needed" in said and "no torch was found" in said
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text("__version__ = '2.4.1+cpu'\ncuda: Optional[str] = None\n")
    said = sentence("build_ext", before=hidden_torch(tmp_path))
    assert "torch>=2.11 is needed" in said and f"torch 2.4.1+cpu in {tmp_path}" in said


def test_compiler_is_missing_or_old(tmp_path):
    said = sentence("build_ext", "--inplace", CXX="no-such-compiler")
    assert "a C++ compiler is needed" in said and "no-such-compiler" in said and "CXX" in said
    old = tmp_path / "an old $compiler"
    old.write_text("#!/bin/sh\necho \"error: unrecognized option '-std=c++20'\" >&2\nexit 1\n")
    old.chmod(0o755)
    said = sentence("build_ext", "--inplace", CXX=f"'{old}'")
    assert "does not take -std=c++20" in said and said.endswith("error: unrecognized option '-std=c++20'")


def test_a_python_that_setuptools_cannot_build_for():
    said = sentence("bdist_wheel", before="sys.prefix += '/a $name'")
    assert "setuptools" in said and "/a $name" in said


def test_a_read_only_tree_is_not_written():
    before = "import os; access = os.access; os.access = lambda path, mode: mode != os.W_OK and access(path, mode)"
    present = {path.name for path in ROOT.iterdir()}
    run = setup("egg_info", before=before)
    assert run.returncode == 0, run.stderr
    written, *_ = [line for line in run.stdout.splitlines() if line.startswith("writing manifest file")]
    folder = Path(written.split("'")[1]).parents[1]
    assert folder.is_absolute() and folder != ROOT and not folder.exists()  # the temporary one, which is gone
    assert {path.name for path in ROOT.iterdir()} == present


def test_the_source_distribution_is_the_repository(tmp_path):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository")
    run = setup("-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    assert run.returncode == 0, run.stderr
    with tarfile.open(*tmp_path.glob("*.tar.gz")) as packed:
        files = {name.partition("/")[2] for name in packed.getnames() if packed.getmember(name).isfile()}
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines())
    assert tracked - files == set()
