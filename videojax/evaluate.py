"""Measures of a run: the frozen loss and, on worlds, the coherence of sampled clips."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from videojax.config import Experiment
from videojax.data import spread, stack_examples
from videojax.errors import ConfigError, NotFiniteError
from videojax.io.log import phase
from videojax.io.media import to_uint8
from videojax.io.records import FrozenLossRecord, SplitLoss
from videojax.measures import frozen, fvd, i3d, physics
from videojax.sample import generate
from videojax.sharding import local_rows, put_batch, whole_batch


class Coherence(NamedTuple):
  """Measures of sampled clips (docs/measures.md).

  Attributes:
    mean, stderr: measure -> {split, 'floor', 'copy_last', 'extrapolate'} -> value.
    per_example: measure -> split -> value of every clip.
  """

  mean: dict[str, dict[str, float]]
  stderr: dict[str, dict[str, float]]
  per_example: dict[str, dict[str, list[float]]]


class Evaluator:
  """Compiled measures of one experiment; the weights are an argument.

  Everything after decoding is compiled once for all splits, which differ only in their worlds.

  Args:
    experiment: resolved.
    mesh: of the run.
  """

  made = "sample"  # what `generate` makes

  def __init__(self, experiment: Experiment, mesh: Mesh):
    self.experiment, self.config, self.mesh = experiment, experiment.evaluate, mesh
    name = next(iter(experiment.data))
    self.train_task = experiment.task(name)
    self.tasks = {
      split: experiment.task(name, settings) for split, settings in self.config.splits.items()
    }
    self.first = next(iter(self.tasks))
    for split, task in self.tasks.items():
      if task.source.shape != self.train_task.source.shape:
        raise ConfigError(
          f"evaluate.splits.{split} has clips {task.source.shape}, training has "
          f"{self.train_task.source.shape} (frames, height, width, channels): they must be equal"
        )
    self.batch = whole_batch(self.config.batch_size, mesh)
    self._reference: frozen.Reference | None = None
    self._ignorance: dict[str, float] | None = None
    self._sources = {None: self.train_task.source} | {s: t.source for s, t in self.tasks.items()}
    # Not jitted here: a world's decode is compiled once for all evaluators of the process.
    self._decode = {split: source.decode for split, source in self._sources.items()}
    self._encode = jax.jit(lambda params, example: self.train_task.prepare(params, example)[0])
    self._errors = jax.jit(self._level_errors)
    task, e = self.train_task, experiment
    decode = lambda p, example: task.codec.of(p).decode(task.prepare(p, example)[0])
    self._decode_latents = jax.jit(decode)
    self._generate = jax.jit(lambda p, example: generate(task, e.sampler, e.guidance, p, example))
    self._checked = False

  def check(self, params: dict) -> None:
    """Traces evaluation and sampling on shapes, so that errors appear before a run, not at its end.

    Args:
      params: abstract weights, including the codec's.
    Raises:
      ConfigError: an invalid setting of the sampler, of guidance or of a split.
    """
    if self._checked:
      return
    for split, source in self._sources.items():
      try:
        rows = jax.tree.map(self._abstract, stack_examples(source, [0]))
        example = jax.eval_shape(self._decode[split], rows)
        self._traced(params, example)
      except (TypeError, ValueError) as error:  # shapes that do not fit raise either
        where = "the training clips" if split is None else f"evaluate.splits.{split}"
        window = self.experiment.sampler.window
        how = f", by windows of {window} frames (sampler.window)" if window else ""
        raise ConfigError(f"measuring and sampling {where}{how}: {error}") from error
    frames = self.train_task.source.shape[0]
    if self.config.fvd_clips and frames < i3d.MIN_FRAMES:
      raise ConfigError(
        f"evaluate.fvd_clips={self.config.fvd_clips}: I3D needs clips of at least "
        f"{i3d.MIN_FRAMES} frames, these have {frames}"
      )
    self._checked = True

  def _traced(self, params: dict, example: dict[str, Any]) -> None:
    """Traces what is measured of one batch."""
    jax.eval_shape(self._errors, params, example)
    jax.eval_shape(self._generate, params, example)

  def _abstract(self, x: np.ndarray) -> jax.ShapeDtypeStruct:
    """One row -> the shape and dtype of a batch of such rows."""
    return jax.ShapeDtypeStruct((self.batch, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))

  def generate(self, params: dict, example: dict[str, Any]) -> jax.Array:
    """One sampled clip per row of a decoded example; see `sample.generate`.

    Raises:
      NotFiniteError: a clip contains NaN or infinity.
    """
    video = self._generate(params, example)
    check_finite(video)
    return video

  def examples(
    self, split: str | None, clips: int, doing: str = "evaluating"
  ) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields (decoded batch, number of real rows) of a fixed set of clips.

    The last batch is padded by repeating its last row.

    Args:
      split: None: the training data.
      clips: size of the set.
      doing: purpose, shown on the console if it takes long.
    """
    source, mine = self._sources[split], local_rows(self.batch, self.mesh)
    indices = spread(source, clips)
    with phase(f"{doing} ({split or 'training data'}), clips", len(indices)) as advance:
      for start in range(0, len(indices), self.batch):
        rows = indices[start : start + self.batch]
        padded = np.pad(rows, (0, self.batch - len(rows)), mode="edge")
        carried = put_batch(stack_examples(source, padded[mine].tolist()), self.mesh, self.batch)
        yield self._decode[split](carried), len(rows)
        advance(len(rows))

  @functools.cached_property
  def unknown(self) -> np.ndarray:
    """[T,1,1,1]: 1 on frames that are not given."""
    given = self.train_task.given[:: self.train_task.strides[0]]
    return 1 - given.astype(np.float64).reshape(-1, 1, 1, 1)

  def reference(self, params: dict) -> frozen.Reference:
    """Statistics of the training clips' latents, computed once.

    They depend on the codec's weights, which are the same in all runs that share an evaluator.
    """
    if self._reference is None:
      batches = self.examples(None, self.config.reference_clips, "reference statistics")
      latents = (on_host(self._encode(params, b))[:n] for b, n in batches)
      self._reference = frozen.fit_reference(latents, self.unknown)
    return self._reference

  def _level_errors(self, params: dict, example: dict[str, Any]) -> jax.Array:
    x, cond = self.train_task.prepare(params, example)
    denoise = lambda x_t, t: self.train_task.denoise(params, x_t, t, cond).x0
    unknown = jnp.asarray(self.unknown, jnp.float32)[None]
    process = self.train_task.denoiser.noise
    return frozen.level_errors(denoise, process, x, example["id"], unknown)

  def frozen_loss(self, params: dict, split: str | None = None) -> frozen.FrozenLoss:
    """The frozen loss of these weights on a split; None: the main split."""
    batches = self.examples(split or self.first, self.config.clips, "frozen loss")
    errors = [on_host(self._errors(params, b))[:n] for b, n in batches]
    loss = frozen.summarize(np.concatenate(errors), self.reference(params).total)
    if not np.isfinite(loss.mean):
      raise NotFiniteError(
        f"the frozen loss on split {split or self.first} is {loss.mean}: these weights have "
        "diverged, or an example is not finite; restart from an earlier checkpoint with branch_from"
      )
    return loss

  def ignorance(self, params: dict) -> dict[str, float]:
    """The frozen loss of the zero model and of the best per-pixel affine denoiser."""
    if self._ignorance is not None:
      return self._ignorance
    zero, wiener, reference = [], [], self.reference(params)
    for example, n in self.examples(self.first, self.config.clips):
      x = on_host(self._encode(params, example))[:n]
      zero.append(frozen.zero_errors(x, self.unknown))
      wiener.append(frozen.wiener_errors(x, reference, self.unknown))
    value = lambda rows: frozen.summarize(np.concatenate(rows), reference.total).mean
    self._ignorance = {"zero_model": value(zero), "wiener": value(wiener)}
    return self._ignorance

  def samples(self, split: str, params: dict, clips: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Sampled clips and decoded true examples of the first rows of a split, on the host.

    The `video` of an example with cached latents is what the codec decodes from their means.
    """
    example, n = next(self.examples(split, min(clips, self.batch)))
    if self.train_task.cached:
      example = example | {"video": self._decode_latents(params, example)}
    with phase(f"sampling ({split}), {n} clips"):
      video = on_host(self.generate(params, example))[:n]
    return video, {k: on_host(v)[:n] for k, v in example.items() if k != "state"}

  def fvd(self, params: dict) -> fvd.Result | None:
    """FVD of sampled clips of the main split, with its floor.

    None if evaluate.fvd_clips is 0, or if the data have no pixels.

    Raises:
      ConfigError: the weights of I3D are missing, or the clips are unsuitable for it.
    """
    n = self.config.fvd_clips
    if not n or self.train_task.cached:
      return None
    weights = i3d.load(self.config.fvd_weights)
    clips = lambda count, make: np.concatenate(
      [to_uint8(on_host(make(x))[:rows]) for x, rows in self.examples(self.first, count, "FVD")]
    )
    generated = clips(n, lambda x: self.generate(params, x))
    real = clips(2 * n, lambda x: x["video"])
    ema = bool(self.experiment.ema)
    try:
      return fvd.measure(weights, real, generated, stride=1, split=self.first, ema=ema)
    except ValueError as error:
      raise ConfigError(f"evaluate.fvd_clips={n}: {error}") from error

  def coherence(self, params: dict) -> Coherence:
    """Coherence of sampled clips of every split, with floor and baselines of the main split.

    Empty for data without a simulator.
    """
    out = Coherence({}, {}, {})
    if not self.measures_coherence:
      return out
    rows = {s: self._measured(s, lambda x: self.generate(params, x)) for s in self.tasks}
    for row, per_clip in (rows | self.yardsticks).items():
      for measure, cell in physics.coherence_table(per_clip).items():
        out.mean.setdefault(measure, {})[row] = cell["mean"]
        out.stderr.setdefault(measure, {})[row] = cell["stderr"]
        if row in rows:
          values = [float(v) for v in per_clip[measure]]
          out.per_example.setdefault(measure, {})[row] = values
    return out

  def initial(self, params: dict) -> float:
    """The main measure before the first step: the frozen loss."""
    return self.frozen_loss(params).mean

  def record(self, weights: dict, raw: dict, init: float) -> dict[str, Any]:
    """All measures of the final weights: fields of records.Result.

    Args:
      weights: the ones that are measured. raw: without averaging. init: `initial` of the run.
    """
    losses = {split: self.frozen_loss(weights, split) for split in self.tasks}
    main, coherence = losses.pop(self.first), self.coherence(weights)
    return {
      "frozen_loss": FrozenLossRecord(
        init=init, raw=self.frozen_loss(raw).mean, clips=len(main.per_example),
        variance=self.reference(weights).total,
        **(_split_fields(main) | self.ignorance(weights)),
      ),
      "frozen_loss_by_split": {s: SplitLoss(**_split_fields(loss)) for s, loss in losses.items()},
      "coherence": coherence.mean,
      "coherence_stderr": coherence.stderr,
      "coherence_per_example": coherence.per_example,
    }  # fmt: skip

  def lines(self, measured: dict[str, Any]) -> list[str]:
    """The main results of `record` in a few lines, without coherence."""
    loss: FrozenLossRecord = measured["frozen_loss"]
    return [
      f"frozen loss {loss.final:.4f} +- {loss.stderr:.4f} of the data's variance "
      f"(initial {loss.init:.3f}, zero model {loss.zero_model:.3f}, Wiener {loss.wiener:.3f})"
    ]

  @property
  def world(self) -> Any:
    """The config of the data's simulator, for its extent and fps; None if there is no simulator."""
    config = getattr(self.train_task.source, "config", None)
    return config if hasattr(config, "extent") else None

  @property
  def measures_coherence(self) -> bool:
    """Whether coherence is wanted, and the data come from a simulator and have known frames."""
    task = self.train_task
    wanted = (
      self.config.coherence_clips and task.known_frames and task.condition.masks[0] == "start"
    )
    return bool(wanted) and self.world is not None

  @property
  def known(self) -> int:
    """Number of leading frames that coherence does not count."""
    return self.train_task.known_frames

  @property
  def left_out(self) -> list[str]:
    """A sentence about measures that are not made because the data have no pixels."""
    if not self.train_task.cached:
      return []
    path = self.train_task.cached.path
    return [f"{path} holds latents without true video: coherence and FVD are left out"]

  def need_video(self, doing: str) -> None:
    """Raises ConfigError if the data have no pixels, which `doing` compares with."""
    if self.train_task.cached:
      raise ConfigError(
        f"{self.train_task.cached.path} holds latents without true video, which {doing} needs: "
        "use a run that was trained on the clips themselves"
      )

  @functools.cached_property
  def yardsticks(self) -> dict[str, dict[str, np.ndarray]]:
    """Scores of true clips and baselines on the main split: row -> measure -> value per clip."""
    known, world = self.train_task.known_frames, self.world
    clips = {
      "floor": lambda x: x["video"],
      "copy_last": lambda x: physics.copy_last(x["video"], known),
      "extrapolate": lambda x: _extrapolate(x["video"], x["state"], world.extent, world.fps, known),
    }
    return {row: self._measured(self.first, make) for row, make in clips.items()}

  def _measured(self, split: str, make: Callable[[dict], jax.Array]) -> dict[str, np.ndarray]:
    """Measure -> value per clip, for the videos that `make` makes from a split's examples."""
    known, world = self.known, self.world
    parts = []
    for example, n in self.examples(split, self.config.coherence_clips, "coherence"):
      values = _measure(make(example), example["state"], world.extent, world.fps, known)
      parts.append({k: on_host(v)[:n] for k, v in values.items()})
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _split_fields(loss: frozen.FrozenLoss) -> dict[str, Any]:
  """The fields of a SplitLoss."""
  values = loss._asdict()
  return {"final": values.pop("mean"), **values}


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _measure(
  video: jax.Array, state: dict[str, jax.Array], extent: float, fps: float, known: int
) -> dict[str, jax.Array]:
  return physics.measure(video, state, extent=extent, fps=fps, known=known)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _extrapolate(
  video: jax.Array, state: dict[str, jax.Array], extent: float, fps: float, known: int
) -> jax.Array:
  return physics.extrapolate(video, state, extent=extent, fps=fps, known=known)


def check_finite(video: jax.Array) -> None:
  """Raises NotFiniteError if sampled clips contain NaN or infinity."""
  if not bool(jax.device_get(_all_finite(video))):
    raise NotFiniteError(
      "sampled clips are not finite: the guidance may be too strong, or the sampler unsuitable for "
      "these weights; repeat the command with another --config.guidance.scale or --config.sampler.*"
    )


@jax.jit
def _all_finite(video: jax.Array) -> jax.Array:
  return jax.numpy.isfinite(video).all()


def on_host(x: jax.Array) -> np.ndarray:
  """A global array, gathered on every host."""
  if x.is_fully_addressable:
    return jax.device_get(x)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
