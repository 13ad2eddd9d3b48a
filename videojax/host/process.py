"""Settings of the host process."""

import ctypes
import glob
import os
import sys
from typing import Any

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
  """Makes glibc's malloc keep freed memory, for steps on the CPU; returns whether it does.

  XLA's CPU backend allocates its temporaries anew in every step. By default glibc maps and unmaps
  such blocks, so that each step waits for the kernel to zero the same pages again: up to half of
  the time of a small step (measured: docs/LOG.md). The process keeps its peak memory.
  """
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):  # another C library
    return False
  settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
  return all(mallopt(name, value) == 1 for name, value in settings)


def threads_for_fake_devices() -> None:
  """Gives XLA enough threads for several fake CPU devices (JAX_NUM_CPU_DEVICES).

  Each may wait in a collective for the others: with one thread per core they deadlock, and XLA
  aborts after 40 s (12 of 15 test processes on 2 busy cores; none of 15 with these threads).
  Call it before importing jax.
  """
  devices = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
  if devices.isdigit() and int(devices) > 1:
    os.environ.setdefault("PJRT_NPROC", str(4 * int(devices)))


def settings_of_no_tpu() -> None:
  """Keeps libtpu from looking for a TPU, and warning, on a machine without one.

  It may be installed to compile for TPUs of other machines (plan/topology.py).
  """
  if any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*")):
    return
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several processes may compile at once


def most_of_a_gpu() -> None:
  """Lets JAX use a GPU's memory except for what the driver and cuDNN need.

  JAX's default of three quarters can be too little for a run that fits according to `plan`. Call it
  before importing jax.
  """
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")


def compilation_cache() -> None:
  """Caches programs compiled for an accelerator in ~/.cache, unless a cache directory is set.

  Not for a CPU: its programs are specific to the machine that compiled them, and other machines may
  share the home directory. (JAX_COMPILATION_CACHE_DIR is for both, but several CPU devices do not
  use it: a program loaded from the cache may order its collectives differently on each device and
  deadlock. Seen with JAX 0.10.)
  """
  import jax

  config: Any = jax.config
  if jax.default_backend() == "cpu":
    if jax.device_count() > 1:
      config.update("jax_enable_compilation_cache", False)
    return
  if config.jax_compilation_cache_dir is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    config.update("jax_compilation_cache_dir", os.path.join(home, "videojax", "xla"))
