import os
import sys

import jax
import pytest

from videojax.host.process import compilation_cache, keep_freed_memory, settings_of_no_tpu


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_reused_without_new_page_faults():
  """In a child process: numpy frees and takes 64 MiB; kept pages do not fault again."""
  import subprocess

  code = """
import numpy as np, resource
from videojax.host.process import keep_freed_memory
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


def test_the_compilation_cache_is_in_the_users_directory_unless_one_is_set(monkeypatch, tmp_path):
  name = "jax_compilation_cache_dir"
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  try:
    compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before  # the suite's
    jax.config.update(name, None)
    compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "videojax" / "xla")
  finally:
    jax.config.update(name, before)


def test_several_cpu_devices_do_not_use_the_compilation_cache():
  directory = jax.config.jax_compilation_cache_dir
  assert jax.device_count() > 1 and jax.config.jax_enable_compilation_cache
  try:
    compilation_cache()
    assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_compilation_cache_dir == directory
  finally:
    jax.config.update("jax_enable_compilation_cache", True)


def test_where_there_is_no_tpu_its_library_does_not_look_for_one(monkeypatch):
  for present, want in ((["/dev/accel0"], None), ([], "1")):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr("glob.glob", lambda pattern, present=present: present)
    settings_of_no_tpu()
    assert os.environ.get("TPU_SKIP_MDS_QUERY") == want
