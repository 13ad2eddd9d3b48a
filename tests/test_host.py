import os
import sys

import pytest

from videojax.host import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_reused_without_new_page_faults():
  """In a child process: numpy frees and takes 64 MiB; kept pages do not fault again."""
  import subprocess

  code = """
import numpy as np, resource
from videojax.host import keep_freed_memory
def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(10):
    np.ones(2**24, np.float32)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
assert keep_freed_memory()
np.ones(2**24, np.float32)
print(default, faults())
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
  )
  default, kept = map(int, done.stdout.split())
  assert kept < default / 10


def test_other_systems_are_left_alone(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  assert not keep_freed_memory()
