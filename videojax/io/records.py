"""The record of a run, result.json: its fields, with units. Reports are built from these.

In the file, null stands for NaN, an undefined measure; the types of such fields include None.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Wall-clock seconds by part, over all starts of a run.

  Not counted: start-up, restoring, and what a kill discarded after the last checkpoint.
  """

  compile: float = 0.0
  data_wait: float = 0.0
  step: float = 0.0
  save: float = 0.0
  evaluate: float = 0.0


@dataclasses.dataclass(frozen=True)
class SplitLoss:
  """The frozen loss of the EMA weights on one split (docs/measures.md).

  In units of the variance of the training data, except `velocity`.

  Attributes:
    final: the loss; stderr: its standard error over clips.
    by_level: the loss at each of the 16 noise levels, cleanest first.
    velocity: mean squared error of the velocity, not divided by the variance.
    dynamics: the loss at the noisiest level minus that at the cleanest.
    per_example: `final` of each clip, in the order of their indices.
  """

  final: float
  stderr: float | None
  by_level: list[float]
  velocity: float
  dynamics: float
  per_example: list[float]


@dataclasses.dataclass(frozen=True)
class FrozenLossRecord(SplitLoss):
  """The frozen loss on the split evaluate.main, and what it is compared with.

  Attributes:
    init: before training; None for a run that continues another run's checkpoint.
    raw: of the raw weights, without averaging.
    zero_model, wiener: of the zero model and of the best per-pixel affine denoiser.
    variance: of the data; all losses except `velocity` are divided by it.
    clips: number of clips evaluated.
  """

  init: float | None
  raw: float
  zero_model: float
  wiener: float
  variance: float
  clips: int


@dataclasses.dataclass(frozen=True)
class ReconstructionRecord:
  """What an autoencoder's reconstructions lose on one split, and its latents (EMA weights).

  Attributes:
    error: mean squared error of pixels over their variance; stderr: over clips.
    psnr_db: of the mean squared error of 8-bit pixels (measures/distortion.py).
    ssim: mean over clips and frames; None for frames smaller than its window.
    clips: number of clips evaluated.
    values_per_latent: pixel values per latent value.
    latent_mean, latent_deviation: of the mean latents, per channel.
    latent_noise: mean deviation of the latents' distribution, per channel.
    codes: size of the codebook, or None; codes_used: share of it that occurs in these clips;
      perplexity: exp of the entropy of the codes, in codes.
    fvd: distance of reconstructed clips from other true ones (measures/fvd.py), and fvd_floor, of
      true clips, on the main split; None unless evaluate.fvd_clips asks for it.
  """

  error: float
  stderr: float | None
  psnr_db: float
  ssim: float | None
  clips: int
  values_per_latent: float
  latent_mean: list[float]
  latent_deviation: list[float]
  latent_noise: list[float]
  codes: int | None = None
  codes_used: float | None = None
  perplexity: float | None = None
  fvd: float | None = None
  fvd_floor: float | None = None


@dataclasses.dataclass(frozen=True)
class ClipRecord:
  """What a clip costs, of the main data source.

  Attributes:
    seconds: of video.
    encode_flops: of encoding it in a training step; 0 if the codec is free or latents are cached.
    denoise_flops, decode_flops: of sampling one with the run's sampler and guidance, and of
      decoding it.
  """

  seconds: float
  encode_flops: int
  denoise_flops: int
  decode_flops: int


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run.

  Attributes:
    schema: version of this record.
    params_sha256: of the final parameters (integrity.params_sha256: paths in sorted order).
    parameters: their number, by part and `total`.
    steps: number of updates.
    clips: number of clips seen in training.
    tokens: number of tokens processed in training.
    flops: model FLOPs of training by part and `total`; 3 x forward (docs/measures.md).
    seconds: by part.
    peak_bytes: peak memory of one device; the compiler's estimate for the training step if the
      device does not report it.
    frozen_loss: on the split evaluate.main; None for an autoencoder.
    frozen_loss_by_split: on the other splits, in units of the same variance.
    reconstruction: of an autoencoder on the split evaluate.main, else None.
    reconstruction_by_split: on the other splits.
    coherence: measure -> {split, 'floor', 'copy_last', 'extrapolate'} -> mean; empty if the data
      is not simulated.
    coherence_stderr: the same for standard errors over clips.
    coherence_per_example: measure -> split -> value of each sampled clip; null: undefined.
    clip: costs beside those of training; None for an autoencoder and in older records.
  """

  schema: int
  params_sha256: str
  parameters: dict[str, int]
  steps: int
  clips: int
  tokens: int
  flops: dict[str, float]
  seconds: Seconds
  peak_bytes: int
  frozen_loss: FrozenLossRecord | None
  frozen_loss_by_split: dict[str, SplitLoss]
  coherence: Mapping[str, Mapping[str, float | None]]
  coherence_stderr: Mapping[str, Mapping[str, float | None]]
  coherence_per_example: Mapping[str, Mapping[str, Sequence[float | None]]]
  reconstruction: ReconstructionRecord | None = None
  reconstruction_by_split: Mapping[str, ReconstructionRecord] = dataclasses.field(
    default_factory=dict
  )
  clip: ClipRecord | None = None

  @property
  def loss(self) -> float:
    """The main measure: the frozen loss, or the relative error of an autoencoder."""
    if self.reconstruction is not None:
      return self.reconstruction.error
    return self.frozen_loss.final if self.frozen_loss else float("nan")

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
