"""Measures of an autoencoder: what its reconstructions lose, and what its latents are like."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from videojax.config import Experiment
from videojax.errors import NotFiniteError
from videojax.evaluate import Evaluator, on_host
from videojax.io.media import to_uint8
from videojax.io.records import ReconstructionRecord
from videojax.measures import distortion
from videojax.models.quantize import codebook_use
from videojax.reconstruct import Reconstruction


class CodecEvaluator(Evaluator):
  """Compiled measures of an experiment whose model is an autoencoder.

  `generate` reconstructs, so that coherence and FVD are those of reconstructed clips.
  """

  train_task: Reconstruction
  made = "reconstruction"

  def __init__(self, experiment: Experiment, mesh: Mesh):
    super().__init__(experiment, mesh)
    task = self.train_task
    self._generate = jax.jit(lambda params, x: task.reconstructed(params, x["video"]))
    self._through = jax.jit(lambda params, x: task.through(params, x["video"]))

  def _traced(self, params: dict, example: dict[str, Any]) -> None:
    jax.eval_shape(self._generate, params, example)

  @property
  def measures_coherence(self) -> bool:
    return bool(self.config.coherence_clips) and self.world is not None

  @property
  def known(self) -> int:
    return 1  # physics.measure needs one

  @functools.cached_property
  def yardsticks(self) -> dict[str, dict[str, np.ndarray]]:
    """Scores of true clips: what a reconstruction could have at best."""
    return {"floor": self._measured(self.first, lambda x: x["video"])}

  def initial(self, params: dict) -> float:
    """The relative error of reconstructions of the main split."""
    return self._record(params, self.first).error

  def record(self, weights: dict, raw: dict, init: float) -> dict[str, Any]:
    """All measures of the final weights: fields of records.Result."""
    by_split = {split: self._record(weights, split) for split in self.tasks}
    main, coherence = by_split.pop(self.first), self.coherence(weights)
    distance = self.fvd(weights)
    if distance is not None:
      main = dataclasses.replace(main, fvd=distance.distance, fvd_floor=distance.floor)
    return {
      "frozen_loss": None, "frozen_loss_by_split": {},
      "coherence": coherence.mean, "coherence_stderr": coherence.stderr,
      "coherence_per_example": coherence.per_example,
      "reconstruction": main, "reconstruction_by_split": by_split,
    }  # fmt: skip

  def _record(self, params: dict, split: str) -> ReconstructionRecord:
    truth, decoded, errors, mean, deviation, codes = [], [], [], [], [], []
    for example, n in self.examples(split, self.config.clips, "reconstructing"):
      out = self._through(params, example)
      video, made, latent, log_var = (on_host(x)[:n] for x in (example["video"], *out[:3]))
      errors.append(((video - made) ** 2).mean((1, 2, 3, 4)))
      truth.append(to_uint8(video))
      decoded.append(to_uint8(made))
      codes += [] if out[3] is None else [on_host(out[3])[:n].reshape(-1)]
      mean.append(latent.reshape(-1, latent.shape[-1]))
      deviation.append(np.exp(log_var / 2).reshape(-1, latent.shape[-1]))
    pixels = np.concatenate(truth).astype(np.float64) / 127.5 - 1
    total, per_clip = float(pixels.var()), np.concatenate(errors)
    if not np.isfinite(per_clip).all():
      raise NotFiniteError(f"reconstructions of split {split} are not finite")
    seen, made = np.concatenate(truth), np.concatenate(decoded)
    latents, noise = np.concatenate(mean), np.concatenate(deviation)
    large = min(seen.shape[2:4]) > 2 * distortion.RADIUS
    return ReconstructionRecord(
      error=float(per_clip.mean() / total),
      stderr=float(per_clip.std(ddof=1) / total / len(per_clip) ** 0.5) if len(seen) > 1 else None,
      psnr_db=distortion.psnr(seen, made),
      ssim=float(distortion.ssim(seen, made).mean()) if large else None,
      clips=len(seen),
      values_per_latent=float(np.prod(self.train_task.source.shape))
      / float(np.prod(self.train_task.latent_shape)),
      latent_mean=latents.mean(0).tolist(),
      latent_deviation=latents.std(0).tolist(),
      latent_noise=noise.mean(0).tolist(),
      **self._codebook(codes),
    )

  def _codebook(self, codes: list[np.ndarray]) -> dict[str, Any]:
    """Fields of the record about discrete codes."""
    quantizer = self.train_task.model.config.quantizer
    if quantizer is None:
      return {}
    used, perplexity = codebook_use(jnp.asarray(np.concatenate(codes)), quantizer.number)
    return {"codes": quantizer.number, "codes_used": float(used), "perplexity": float(perplexity)}

  def lines(self, measured: dict[str, Any]) -> list[str]:
    """The main results in a few lines."""
    told: ReconstructionRecord = measured["reconstruction"]
    return [
      f"reconstruction: error {told.error:.4f} of the data's variance, PSNR {told.psnr_db:.2f} dB"
      + ("" if told.ssim is None else f", SSIM {told.ssim:.4f}")
      + ("" if told.fvd is None else f", FVD {told.fvd:.4g} (true clips {told.fvd_floor:.4g})")
      + f"; {told.values_per_latent:.1f} values per latent value"
    ]
