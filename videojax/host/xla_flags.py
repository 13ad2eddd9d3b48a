"""Named sets of compiler options: opt-in (`xla_flags`), and checked against the current compiler.

They apply only to the training step. In XLA_FLAGS, an option that the installed version does not
know would end the process.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax

# TPU: as in MaxDiffusion's README and MaxText's xla_flags_library.py. GPU: as in MaxText's scripts
# for A3. Measure the effect of each on a step (--mode=bench).
PRESETS: dict[str, dict[str, bool | int]] = {
  "tpu_overlap": {  # overlaps collectives with computation
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
    "xla_enable_async_collective_permute": True,
    "xla_tpu_enable_async_all_to_all": True,
  },
  "tpu_slices": {  # overlaps gradient all-reduces between slices with the backward pass
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
  },
  "tpu_vmem": {"xla_tpu_scoped_vmem_limit_kib": 65536},  # larger fusions and kernels
  # Products by cuBLAS with its own choice of kernel: without autotuning, compiling takes less time;
  # large products are no slower (measured: docs/LOG.md).
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


def compile_with(
  lowered: jax.stages.Lowered, options: Mapping[str, Any]
) -> tuple[jax.stages.Compiled, list[str]]:
  """Returns (the compiled program, the options left out because this compiler does not know them).

  Args:
    lowered: result of `jax.jit(f).lower(...)`.
    options: name -> value.
  """
  kept, unknown = dict(options), list[str]()
  while True:
    try:
      return lowered.compile(compiler_options=kept or None), unknown
    except Exception as error:  # its type depends on the backend
      name = re.search(r"No such compile option: '(\w+)'", str(error))
      if name is None or name[1] not in kept:
        raise
      kept.pop(name[1])
      unknown.append(name[1])
