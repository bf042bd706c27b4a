import os
import socket
from pathlib import Path

from streamgen import __version__
from streamgen.bench.machine import machine, versions


def test_what_a_reader_of_figures_needs_to_know():
    here = machine()
    assert here["cpu"]
    assert isinstance(here["cores"], int)
    assert here["cores"] >= 1
    assert isinstance(here["memory_gib"], float)
    assert isinstance(here["gpu"], list)


def test_versions_of_what_is_installed():
    found = versions(["aiortc", "no-such-package"])
    assert set(found) == {"python", "streamgen", "aiortc"}
    assert found["streamgen"] == __version__


def test_nothing_tells_whose_machine_it_is():
    told = f"{machine()} {versions(['numpy'])}"
    assert socket.gethostname() not in told
    assert str(Path.home()) not in told or str(Path.home()) == "/"
    assert os.sep not in told
