"""8 fake CPU devices, strict shapes, and one compilation cache for the suite's processes."""

import importlib.metadata
import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A child process (kill trials) finds what another has compiled.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="videojax-xla-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Most of the suite's time is XLA compiling small programs: it takes half as long without LLVM's
# passes, and half of that without the MLIR emitters, which jaxlib 0.12 cannot turn off any more.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
  os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# Of 8 fake devices each may wait in a collective for the others: a thread for all of them at once.
os.environ.setdefault("PJRT_NPROC", "32")

import jax  # noqa: E402
import pytest  # noqa: E402
from beartype import BeartypeConf  # noqa: E402
from beartype.claw import beartype_packages  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Every call is checked against its hints. Only modules with shapes are given to jaxtyping, whose
# check of a call takes far longer than beartype's own.
ROOT, PACKAGES = Path(__file__).parents[1], ("videojax", "data_pipelines")
install_import_hook(
  [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "from jaxtyping import" in path.read_text()
  ],
  "beartype.beartype",
)
beartype_packages(PACKAGES, conf=BeartypeConf(claw_is_pep526=False))

jax.config.update("jax_num_cpu_devices", 8)
# Programs with collectives for 8 fake devices that run at once can wait for each other for ever.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def programs():
  """What is compiled is kept on disk, up to a file's first mesh of several devices.

  Programs of these, once loaded, can wait for each other for ever (host.compilation_cache). In
  memory a file's programs are of no use to the next: gigabytes by the end of the suite.
  """
  least = "jax_persistent_cache_min_compile_time_secs"
  settings = least, "jax_enable_compilation_cache"  # launch turns the second off
  before, make_mesh = [getattr(jax.config, name) for name in settings], jax.make_mesh

  def alone(shape, *args, **kwargs):
    if math.prod(shape) > 1:
      jax.config.update(least, math.inf)
    return make_mesh(shape, *args, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "make_mesh", alone)
    yield
  for name, value in zip(settings, before):
    jax.config.update(name, value)
  jax.clear_caches()


@pytest.fixture
def nothing_computed_again(monkeypatch):
  """Attention whose backward pass holds the products that the model FLOPs count, and no others."""
  from tests.helpers import plain_attention

  monkeypatch.setattr("videojax.models.context.ring", lambda ways: plain_attention)
