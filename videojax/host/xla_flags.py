"""Named sets of compiler options: opt-in (`xla_flags`), and checked against the compiler in use.

They go to the compiler of the training step alone, not into XLA_FLAGS, where one that the installed
version does not know ends the process.
"""

import re
from collections.abc import Mapping
from typing import Any

# TPU: as in MaxDiffusion's README and MaxText's xla_flags_library.py. GPU: as in MaxText's scripts
# for A3. What each does to a step is to be measured (--mode=bench), not believed.
PRESETS: dict[str, dict[str, Any]] = {
  "tpu_overlap": {  # collectives while products are computed
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
    "xla_enable_async_collective_permute": True,
    "xla_tpu_enable_async_all_to_all": True,
  },
  "tpu_slices": {  # gradients between slices, hidden behind the backward pass
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
  },
  "tpu_vmem": {"xla_tpu_scoped_vmem_limit_kib": 65536},  # larger fusions and kernels
  # Products by cuBLAS, as it sees fit: nothing is timed while compiling, which is shorter for it;
  # large products lose nothing (measured: docs/LOG.md).
  "gpu_cublas": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0},
  "gpu_overlap": {
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_all_reduce_combine_threshold_bytes": 134217728,
    "xla_gpu_all_gather_combine_threshold_bytes": 134217728,
    "xla_gpu_reduce_scatter_combine_threshold_bytes": 67108864,
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
  },
}


def compile_with(lowered: Any, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
  """(the compiled program, options that this compiler does not know and that were left out).

  Args:
    lowered: of `jax.jit(f).lower(...)`.
    options: name -> value.
  """
  kept, unknown = dict(options), list[str]()
  while True:
    try:
      return lowered.compile(compiler_options=kept or None), unknown
    except Exception as error:  # of several kinds, by backend
      name = re.search(r"No such compile option: '(\w+)'", str(error))
      if name is None or name[1] not in kept:
        raise
      kept.pop(name[1])
      unknown.append(name[1])
