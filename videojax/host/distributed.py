"""Multi-process runs: how the processes find each other, and how they end.

With a single process, these functions do nothing.
"""

import contextlib
import dataclasses
import os
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import jax

from videojax.errors import ConfigError

GREETING, GO = "videojax: ", "all are here"
MOST = 100_000  # processes of one run
LEAVE_SECONDS = 60.0  # for all to disconnect; if one does not, jax waits for minutes
METADATA_SECONDS = 3.0  # a TPU VM's metadata server answers in milliseconds
YEAR_SECONDS = 3.15e7  # the longest wait that can be set


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Address of process 0, number of processes, index of this one, and its GPUs (None: all)."""

  address: str
  processes: int
  process: int
  local_devices: Sequence[int] | None = None

  def __post_init__(self) -> None:
    if not re.fullmatch(r"\S+:\d{1,5}", self.address) or not 0 < self.port < 2**16:
      raise ConfigError(
        f"--coordinator={self.address} must be HOST:PORT of process 0, with a port of 1 to 65535"
      )
    if not 0 <= self.process < self.processes:
      raise ConfigError(f"--process={self.process} must be one of 0 to {self.processes - 1}")

  @property
  def port(self) -> int:
    return int(self.address.rpartition(":")[2])


def start(
  address: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  *,
  wait: float = 300.0,
  silence: float = 100.0,
) -> None:
  """Starts jax.distributed if this process is one of several; call it before using any device.

  The processes are given by the arguments, by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
  JAX_PROCESS_ID, by a SLURM step of several tasks, or by the hosts of a TPU slice.

  Args:
    address: HOST:PORT where process 0 will listen, reachable from all processes.
    processes: their number; 1: this is the only one, whatever the environment says.
    process: index of this one, from 0.
    wait: seconds to wait for the others to connect.
    silence: seconds without a heartbeat after which a process counts as lost, and the others end.
  Raises:
    ConfigError: some arguments are missing, or some processes do not connect; they are named.
  """
  if several():
    return
  check_seconds("wait-for-hosts", wait)
  check_seconds("lost-after", silence, least=1.0)
  cluster = find(address, processes, process, wait)
  if cluster is None:
    return
  try:
    meet(cluster, wait)
  except ConfigError as error:
    raise ConfigError(_said_by(cluster.process, cluster.processes, str(error))) from None
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # It would catch SIGTERM instead of stop.asked_to_stop, and handles neither Ctrl-C nor a limit.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    cluster.address, cluster.processes, cluster.process, cluster.local_devices,
    cluster_detection_method="deactivate", initialization_timeout=max(60, int(wait)),
    heartbeat_timeout_seconds=int(silence),
  )  # fmt: skip


def check_seconds(flag: str, seconds: float, least: float = 0.0) -> None:
  """Raises ConfigError if a flag's seconds are out of range."""
  if not least <= seconds <= YEAR_SECONDS:
    raise ConfigError(f"--{flag}={seconds:g} must be from {least:g} to {YEAR_SECONDS:g} seconds")


def several() -> bool:
  """Whether this process is one of several."""
  return jax.distributed.is_initialized()


def number() -> int:
  """Index of this process."""
  return jax.process_index() if several() else 0


def signed(text: str) -> str:
  """The text after this process's index and host, if there are several processes."""
  return _said_by(jax.process_index(), jax.process_count(), text) if several() else text


def _said_by(process: int, processes: int, text: str) -> str:
  return f"process {process} of {processes} ({socket.gethostname()}): {text}"


def of_others(error: object) -> str:
  """The message for an error that jax raises because another process has ended; else ''."""
  if not several() or not re.search("Gloo|NCCL|heartbeat|coordination service", str(error)):
    return ""
  return (
    f"another process has ended or is unreachable ({str(error).splitlines()[0][:200]}): see "
    "the output of the others. The same command on all hosts resumes from the last checkpoint"
  )


def end(code: int, *, orderly: bool) -> int:
  """Disconnects from the other processes and returns the exit code.

  Args:
    code: exit code.
    orderly: the others end now as well. If not, this process exits here: jax would wait for them.
  """
  if not several():
    return code
  if orderly:
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
    if not leaving.is_alive():
      return code
  sys.stdout.flush()
  if jax.process_index() == 0:  # its end aborts the others: let them print their errors first
    time.sleep(2)
  os._exit(code)


# Finding the processes.


def find(
  address: str | None, processes: int | None, process: int | None, wait: float
) -> Cluster | None:
  """The processes given by the arguments, JAX_* or the cluster; None: there is only this one."""
  where = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
  count, mine = _number(processes, "JAX_NUM_PROCESSES"), _number(process, "JAX_PROCESS_ID")
  if count is not None and not 1 <= count <= MOST:
    raise ConfigError(f"--processes={count} must be from 1 to {MOST}")
  if process is not None and not 0 <= process < (count or MOST):
    raise ConfigError(f"--process={process} must be one of 0 to {(count or MOST) - 1}")
  if count == 1:
    return None
  if where is None and count is None and mine is None:
    return _detect(wait)
  if where is None or count is None or mine is None:
    flags = "--coordinator=HOST:PORT", "--processes=N", "--process=I"
    missing = [flag for flag, value in zip(flags, (where, count, mine)) if value is None]
    raise ConfigError(f"with several processes, {' and '.join(missing)} must be given as well")
  return Cluster(where, count, mine)


def _number(value: int | None, variable: str) -> int | None:
  text = os.environ.get(variable)
  if value is not None or text is None:
    return value
  if not text.isdecimal():
    raise ConfigError(f"{variable}={text} must be a whole number")
  return int(text)


def _detect(wait: float) -> Cluster | None:
  """The processes that jax finds in a SLURM step or a TPU slice."""
  method = "slurm" if _in_slurm_step() else _tpu_hosts()
  if method is None:
    return None
  # What jax.distributed.initialize calls; it has no public name.
  from jax._src.clusters import ClusterEnv

  try:
    address, processes, process, devices = ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, method, int(wait)
    )
  except Exception as error:  # a network error, or a missing variable
    raise ConfigError(f"the hosts of this {method} job cannot be found: {error}") from error
  if address is None or processes is None or process is None:
    raise ConfigError(
      f"jax does not find the hosts of this {method} job: give --coordinator, --processes and "
      "--process"
    )
  if method == "slurm" and _owns_its_gpus():
    devices = None
  return Cluster(address, processes, process, devices)


def _in_slurm_step() -> bool:
  """Whether srun started this process as one of several (sbatch's script is not a step)."""
  variables = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  return int(os.environ.get("SLURM_NTASKS") or 1) > 1 and all(v in os.environ for v in variables)


def _owns_its_gpus() -> bool:
  """Whether a SLURM task uses all GPUs that it sees; jax would give it one, by its local index."""
  alone = os.environ["SLURM_NTASKS"] == os.environ.get("SLURM_STEP_NUM_NODES")
  told = "JAX_LOCAL_DEVICE_IDS" in os.environ  # jax.distributed.initialize reads it
  return alone or told or "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def _tpu_hosts() -> str | None:
  """jax's name for this kind of TPU cluster, if this is one of several hosts; else None."""
  platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
  if "tpu" not in (platforms or "").split(","):  # jax adds it where it finds chips
    return None
  get = os.environ.get
  hosts = get("TPU_PROCESS_ADDRESSES") or get("TPU_WORKER_HOSTNAMES")
  if path := get("TPU_PROCESS_ADDRESSES_PATH"):
    hosts = Path(path).read_text()
  method, slices = "gketpu", get("MEGASCALE_NUM_SLICES")
  if hosts is None and "TPU_SKIP_MDS_QUERY" not in os.environ:  # jax sets it where it finds none
    hosts, method = _metadata("worker-network-endpoints"), "gcetpu"
    found = re.search(r"MEGASCALE_NUM_SLICES\s*:\s*'?(\d+)", _metadata("tpu-env") if hosts else "")
    slices = slices or (found and found[1])
  return method if "," in (hosts or "") or int(slices or 1) > 1 else None


def _metadata(key: str) -> str:
  """A metadata attribute of this TPU VM; '' if it is not set or the server does not answer."""
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
  request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
  direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for _ in range(3):
    with contextlib.suppress(OSError), direct.open(request, timeout=METADATA_SECONDS) as answer:
      return answer.read().decode()
  return ""


# Waiting for each other. jax's own wait ends in an abort that does not name the missing processes.


def meet(cluster: Cluster, wait: float) -> None:
  """Returns when all processes have connected; else raises on those that have, naming the rest."""
  host = cluster.address.rpartition(":")[0]
  if cluster.process == 0:
    _gather(cluster, cluster.port, wait)
  else:
    _join(cluster, (host.strip("[]"), cluster.port), wait)


def _gather(cluster: Cluster, port: int, wait: float) -> None:
  """Process 0: waits for the others on the port that jax's service will use, then answers all."""
  come: dict[int, socket.socket] = {}
  callers: list[socket.socket] = []
  until, answer = time.monotonic() + wait, "process 0 was stopped"
  try:
    with _listen(port) as listener:
      while len(come) < cluster.processes - 1:
        if time.monotonic() > until:
          raise ConfigError(_missing(cluster, come, wait))
        with contextlib.suppress(TimeoutError):
          callers.append(listener.accept()[0])
          _greet(callers[-1], cluster, come)
        come = {number: caller for number, caller in come.items() if not _gone(caller)}
    answer = GO
  except ConfigError as error:
    answer = str(error)
    raise
  finally:
    for caller in callers:
      with caller, contextlib.suppress(OSError):
        caller.sendall(f"{GREETING}{answer}\n".encode())


def _listen(port: int) -> socket.socket:
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    listener = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
  except OSError as error:
    raise ConfigError(
      f"cannot listen on port {port} of this host ({os.strerror(error.errno or 0)}): is another "
      "run using it, or another process 0?"
    ) from None
  listener.settimeout(0.5)
  return listener


def _greet(caller: socket.socket, cluster: Cluster, come: dict[int, socket.socket]) -> None:
  """Registers a process that connects; any other connection is closed."""
  caller.settimeout(2)
  hello = None
  with contextlib.suppress(OSError):
    hello = re.fullmatch(rf"{GREETING}(\d+) of (\d+) on (\S+)\n", _line(caller))
  caller.settimeout(0)
  if hello is None:
    caller.close()
    return
  number, processes = int(hello[1]), int(hello[2])
  says = f"a process on {hello[3]} was started as number {number} of {processes}"
  if processes != cluster.processes:
    raise ConfigError(f"{says}, but process 0 as one of {cluster.processes}")
  if number == 0 or (number in come and not _gone(come[number])):
    raise ConfigError(f"{says}, and so was another one")
  come[number] = caller


def _line(connection: socket.socket) -> str:
  with connection.makefile("rb") as stream:
    return stream.readline(65536).decode(errors="replace")


def _gone(caller: socket.socket) -> bool:
  """Whether a process that waits for an answer has disconnected."""
  try:
    return caller.recv(1, socket.MSG_PEEK) == b""
  except OSError as error:
    return not isinstance(error, BlockingIOError)


def _missing(cluster: Cluster, come: dict[int, socket.socket], wait: float) -> str:
  absent = [i for i in range(1, cluster.processes) if i not in come]
  shown = ", ".join(map(str, absent[:20])) + (" ..." if len(absent) > 20 else "")
  return (
    f"{len(absent)} of {cluster.processes} processes did not connect to process 0 at "
    f"{cluster.address} within {wait:.0f} s: number {shown}. See their output; each needs the same "
    "command with its own --process"
  )


def _join(cluster: Cluster, where: tuple[str, int], wait: float) -> None:
  """Any other process: connects to process 0 and waits for its answer."""
  until = time.monotonic() + wait
  hello = f"{GREETING}{cluster.process} of {cluster.processes} on {socket.gethostname()}\n"
  while True:
    try:
      with socket.create_connection(where, timeout=5) as connection:
        connection.sendall(hello.encode())
        connection.settimeout(wait + 30)  # process 0 may have started later
        answer = _line(connection)
      if answer == f"{GREETING}{GO}\n":
        return
      if answer.startswith(GREETING):
        raise ConfigError(answer.removeprefix(GREETING).strip())
      reason = "another program is listening there" if answer else "it closes the connection"
    except OSError as error:
      reason = error.strerror or str(error)
    if time.monotonic() > until:
      raise ConfigError(
        f"no answer from process 0 at {cluster.address} within {wait:.0f} s ({reason}): is it "
        "running there, and can this host reach that port?"
      )
    time.sleep(0.2)
