"""Say on one screen what this machine has and what is missing: `make doctor`, or python doctor.py [options].

Asks nobody on the network and changes nothing. Exit code 2 if something is broken without which no command runs.
Needs the standard library alone, so that it also works where the installation does not.
"""

from __future__ import annotations

import configparser
import dataclasses
import importlib.metadata
import json
import netrc
import os
import re
import shutil
import subprocess
import sys
import textwrap
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import option, parse
from errors import UserError, exit_on_user_error, wrong_path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 10)
WIDTH, NAME_WIDTH = 100, 16  # characters of a line, and of the names at its start
LITTLE_DISK, LITTLE_SHARED = (
    5e9,
    1e9,
)  # bytes: a few runs with their checkpoints; batches on their way between processes

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_ON_MACOS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

AUDIOSET_FILES = (  # file, whether every run needs it
    ("balanced_train_segments_mp3.hdf", True),
    ("unbalanced_train_segments_mp3.hdf", False),
    ("eval_segments_mp3.hdf", True),
    ("audioset_train_strong.tsv", True),
    ("audioset_eval_strong.tsv", True),
    ("eval_durations.csv", False),
)


@dataclass
class DoctorOptions:
    """What this machine has and what is missing."""

    data_dir: Path | None = option(None, "AudioSet folder to look at (default: variable AUDIOSET_DIR)")


@dataclass(frozen=True)
class Part:
    """An optional package.

    Args:
        name: shown.
        use: what it is for.
        packages: any of these distributions will do (default: the name).
        install: what follows `pip install` (default: the name, under the pins of requirements.txt, above all torch's).
    """

    name: str
    use: str
    packages: tuple[str, ...] = ()
    install: str = ""


PARTS = (
    Part("av", "m4a, mp4, aac, wma"),
    Part("onnxscript", "export.py to onnx, openvino"),
    Part("onnxruntime", "--backend onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    Part("openvino", "--backend openvino"),
    Part("pyarrow", "--format parquet"),
    Part("gradio", "make web"),
    Part("wandb", "--logger wandb"),
    Part("tensorboard", "--logger tensorboard", ("tensorboard", "tensorboardX")),
    Part("sacred", "--recorder sacred"),
    Part("deepspeed", "--strategy deepspeed_stage_1"),
    Part("mamba-ssm", "faster mamba on a GPU", install="-c requirements.txt --no-build-isolation mamba-ssm"),
    Part("minimp3py", "faster MP3", install="https://github.com/f0k/minimp3py/archive/master.zip"),
    Part("torchaudio", "not needed here"),
)


@dataclass
class Row:
    """A line of the screen.

    Args:
        name: at the start of the line; empty for a headline.
        text: what was found, in words.
        command: what to run, for copying: never broken into lines.
        problem: what is broken and what to do, if no command can run like this.
    """

    name: str
    text: str = ""
    command: str = ""
    problem: str = ""


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: print the screen; raises UserError with all that is broken."""
    options = parse(DoctorOptions, argv)
    rows = []
    for row in examine(options):  # each line when it is known: the devices take a second
        print("\n".join(lines(row)), flush=True)
        rows.append(row)
    if problems := [row.problem for row in rows if row.problem]:
        raise UserError("; ".join(problems))
    return 0


def examine(options: DoctorOptions) -> Iterator[Row]:
    """All lines of the screen."""
    yield Row("", "Required")
    yield python()
    required = packages()
    yield required
    yield from devices(complete=not required.problem)
    yield Row("", "Optional")
    yield from map(optional, PARTS)
    yield Row("", "Around it")
    yield audioset(options.data_dir)
    yield wandb_state()
    yield browser()
    yield disk()
    yield waiting()


def lines(row: Row) -> list[str]:
    """A row as lines of the screen."""
    if not row.name:
        return [row.text]
    start = f"  {row.name:<{NAME_WIDTH}}"
    wrapped = textwrap.wrap(row.text, WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
    return [start + (wrapped or [""])[0] + row.command, *(" " * len(start) + line for line in wrapped[1:])]


def python() -> Row:
    """Version and place of the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    problem = ""
    if sys.version_info[:2] < OLDEST_PYTHON:
        problem = f"Python {version} is too old, 3.10 or newer is needed: make PYTHON=python3.12 setup"
    return Row("Python", f"{version}, {interpreter()}", problem=problem)


def interpreter() -> str:
    """The running interpreter as one would type it here."""
    names = (name for name in ("python", "python3") if shutil.which(name) == sys.executable)
    return next(names, short(Path(sys.executable)))


def pip() -> str:
    """The pip of the running interpreter as one would type it here."""
    beside = Path(sys.executable).with_name("pip")
    return short(beside) if in_venv() and beside.is_file() else f"{interpreter()} -m pip"


def short(path: Path) -> str:
    """A path, relative if it lies in the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def in_venv() -> bool:
    """Whether the interpreter is that of a virtual environment."""
    return sys.prefix != sys.base_prefix


def installed(*names: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def packages() -> Row:
    """Whether what requirements.txt names is installed, in the versions that it names."""
    pinned = dict(_pins(ROOT / "requirements.txt"))
    found = {name: installed(name) for name in pinned}
    missing = [name for name, version in found.items() if version is None]
    other = [
        f"{name} {version} (pinned: {pinned[name]})"
        for name, version in found.items()
        if version is not None and pinned[name] not in (version, version.partition("+")[0])
    ]
    text = f"{len(pinned) - len(missing)} of {len(pinned)} installed"
    text += f"; missing: {', '.join(missing)}" if missing else ""
    text += f"; other versions: {', '.join(other)}" if other else "" if missing else ", in the pinned versions"
    repair = f"{pip()} install -r {short(ROOT / 'requirements.txt')}" if in_venv() else "make setup"
    problem = f"not installed: {', '.join(missing)}; run {repair}" if missing else ""
    return Row("packages", text, problem=problem)


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    """Names and versions of a requirements file of `name==version; marker` lines, those for this Python alone."""
    for line in path.read_text(encoding="utf-8").splitlines():
        wanted, _, marker = line.partition("#")[0].partition(";")
        name, _, version = wanted.partition("==")
        if version and (not marker or _applies(marker)):
            yield name.strip(), version.strip()


def _applies(marker: str) -> bool:
    """Whether an environment marker is true here; where `packaging` is missing, only Python's version is looked at."""
    try:
        from packaging.markers import Marker
    except ImportError:
        limit = re.fullmatch(r"""\s*python_version\s*(<|>=)\s*["'](\d+)\.(\d+)["']\s*""", marker)
        return limit is None or (sys.version_info[:2] < (int(limit[2]), int(limit[3]))) == (limit[1] == "<")
    return Marker(marker).evaluate()


def devices(complete: bool = True) -> Iterator[Row]:
    """Build of torch, CPU, CUDA and MPS; where packages are known to be missing, a failure is no second problem."""
    command = [sys.executable, "-m", "helpers.device_probe"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        why = (run.stderr.strip().splitlines() or [f"the process ended with code {run.returncode}"])[-1]
        problem = f"torch or a library beside it fails ({why}); run rm -rf .venv && make setup"
        yield Row("torch", f"fails: {why}", problem=problem if complete else "")
        return
    found = json.loads(run.stdout.splitlines()[-1])
    build = f"for CUDA {found['cuda_build']}" if found["cuda_build"] else "without CUDA"
    yield Row("torch", f"{found['torch']}, built {build}")
    yield Row("CPU", f"{found['cpu']}, {found['cores']} cores, {found['instructions']}")
    yield Row("CUDA", _cuda(found))
    mps = "yes" if found["mps"] else "no: macOS 14 or newer is needed" if found["mps_build"] else "no"
    yield Row("MPS", mps)


def _cuda(found: dict[str, Any]) -> str:
    if found["gpus"]:
        gpus = [f"{gpu['name']}, {gpu['bytes'] / 2**30:.0f} GiB" for gpu in found["gpus"]]
        broken = [f"; does not compute: {gpu['error']}" if gpu["error"] else "" for gpu in found["gpus"]]
        return "; ".join(f"{i}: {gpu}{error}" for i, (gpu, error) in enumerate(zip(gpus, broken, strict=True)))
    if found["cuda_build"]:
        return "no: torch is built for it, but finds no device; does nvidia-smi list one?"
    if found["nvidia_driver"]:
        return "no: an NVIDIA driver is there, but torch is built without CUDA (README, section GPU)"
    return "no"


def optional(part: Part) -> Row:
    """Version of an optional package, or the command that installs it without another torch."""
    version = installed(*(part.packages or (part.name,)))
    if version is not None:
        return Row(part.name, f"{version:<16}{part.use}")
    pins = short(ROOT / "requirements.txt")
    command = f"{pip()} install {part.install.replace('requirements.txt', pins) or f'-c {pins} {part.name}'}"
    row = Row(part.name, "missing", f"  {command}")
    use = f"  # {part.use}"  # where there is room: a shell takes it as a comment
    return row if len(lines(row)[0] + use) > WIDTH else dataclasses.replace(row, command=row.command + use)


def audioset(data_dir: Path | None) -> Row:
    """Which files of AudioSet are there."""
    named = data_dir or os.environ.get("AUDIOSET_DIR")
    if not named:
        return Row("AudioSet", "no folder named (--data_dir, or variable AUDIOSET_DIR)")
    folder = Path(named)
    if not folder.is_dir():
        why = f"{folder}: {wrong_path('folder', folder)}"
        return Row("AudioSet", why, problem=f"--data_dir is {why}" if data_dir else "")
    missing = [(name, needed) for name, needed in AUDIOSET_FILES if not (folder / name).is_file()]
    text = f"{folder}: {len(AUDIOSET_FILES) - len(missing)} of {len(AUDIOSET_FILES)} files"
    if missing:
        text += "; missing: " + ", ".join(name if needed else f"{name} (optional)" for name, needed in missing)
    else:
        text += " (python -m data_util.check looks into them)"
    return Row("AudioSet", text)


def wandb_state() -> Row:
    """Whether runs go to Weights & Biases, as far as this machine knows."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Row("W&B", f"{mode} (variable WANDB_MODE)")
    if os.environ.get("WANDB_API_KEY") or _has_wandb_login():
        return Row("W&B", "logged in: runs are sent (WANDB_MODE=offline: they stay here)")
    return Row("W&B", "offline, nobody is logged in: runs stay here (to send them: wandb login)")


def _has_wandb_login() -> bool:
    """Whether a key for the server is stored, where `wandb login` stores it."""
    settings = configparser.ConfigParser(interpolation=None)
    home = Path(os.path.expanduser("~"))  # Path.home() raises where a container's user has none
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    try:
        settings.read(folder / "settings", encoding="utf-8")
        stored = settings.get("default", "base_url", fallback="https://api.wandb.ai")
        server = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL") or stored).netloc
        places = [os.environ.get("NETRC"), home / ".netrc", home / "_netrc"]
        file = next((place for place in places if place and Path(place).is_file()), None)
        return file is not None and server in netrc.netrc(str(file)).hosts
    except (OSError, configparser.Error, netrc.NetrcParseError):
        return False


def find_browser() -> tuple[Path, Path] | None:
    """Chromium (or Chrome) and chromedriver, which the tests of pages need; None where either is missing."""
    chromium = next(filter(None, map(shutil.which, (*CHROMIUM, *CHROMIUM_ON_MACOS))), None)
    driver = shutil.which("chromedriver")
    return (Path(chromium), Path(driver)) if chromium and driver else None


def browser() -> Row:
    """The browser of the tests."""
    found = find_browser()
    if found is None:
        return Row("browser", "missing, so the tests of pages are skipped", "  make browser")
    return Row("browser", " and ".join(map(str, found)))


def disk() -> Row:
    """Free space for runs, and for batches between data workers."""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{_size(free)} free here" + (" (little)" if free < LITTLE_DISK else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        text += f", {_size(free)} in {shared}"
        text += " (little: --num_workers=0, or docker run --shm-size=2g)" if free < LITTLE_SHARED else ""
    return Row("disk", text)


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes < 1e10 else f"{n_bytes / 1e9:.0f} GB"


def waiting() -> Row:
    """How threads wait for each other."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    if policy is None:
        text = "not set: the commands set PASSIVE, your own must do so before they import torch"
    else:
        text = policy if policy.upper() == "PASSIVE" else f"{policy}: training is slow with it; set PASSIVE"
    return Row("OMP_WAIT_POLICY", text)


if __name__ == "__main__":
    sys.exit(main())
