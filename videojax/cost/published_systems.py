"""Published image and video generators as data: their matrix products and their known costs.

A `System` describes a diffusion transformer analytically; its `products` are all that
scaling/flops.py needs. Unpublished values are not filled in: a field that is None is unknown.
Numbers called "counted" come from PyTorch's FlopCounterMode over the classes of diffusers 0.42.1 on
meta tensors; tests/cost/test_cost.py checks the descriptions against them.

Letters: T frames, H W pixels, t h w token grid, S = t h w tokens, D width, F mlp width, L text
tokens.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from videojax.scaling import flops
from videojax.scaling.flops import Product

Size = tuple[int, int, int]  # T, H, W
Number = int | float


@dataclasses.dataclass(frozen=True)
class Fact:
  """A number, its source, and its status: 'published', 'derived' or 'guess'."""

  value: Number
  source: str
  tag: str = "published"


@dataclasses.dataclass(frozen=True)
class Trained:
  """Training compute in FLOPs: 3 x forward for every clip seen."""

  flops: Number
  source: str
  how: str
  at_most: bool = False


@dataclasses.dataclass(frozen=True)
class ChipHours:
  """Training compute in chip-hours, from `low` to `high`; mfu None: not published."""

  chip: str
  low: Number
  high: Number
  source: str
  mfu: Number | None = None
  tag: str = "derived"


@dataclasses.dataclass(frozen=True)
class Row:
  """What the cost tables need to know about a clip and its model; None is unknown.

  Attributes:
    name, source: of the row.
    size, fps: T, H, W in pixels; fps None: an image.
    tokens: of the transformer, without text tokens.
    products: of one forward pass of one clip.
    image, image_tokens: products and tokens of a single frame of that size.
    decode: products of the codec's decoder, which runs once per clip.
    steps, branches: of the sampler; the network runs steps x branches times.
    parameters, embeddings: their number, and how many are in lookup tables.
    training: parts to be summed.
    seconds: per clip on one chip of the kind `chip`.
    wh: per clip.
    price: of the training, in dollars.
    tag, given: tag of values computed from `products`, and of values stated by the source.
    variants: other ways of counting the forward pass, by name.
  """

  name: str
  source: str
  size: Size
  fps: Number | None
  tokens: int
  products: Sequence[Product]
  image: Sequence[Product]
  image_tokens: int
  steps: int
  branches: int
  decode: Sequence[Product] | None = None
  parameters: Fact | None = None
  embeddings: int = 0
  training: tuple[Trained | ChipHours, ...] = ()
  seconds: Fact | None = None
  chip: str = "H100"
  wh: Fact | None = None
  price: Fact | None = None
  tag: str = "derived"
  given: str = "published"
  variants: dict[str, Sequence[Product]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class System:
  """A diffusion transformer over space-time patches of latents, and one way of using it.

  Attributes (for the others see Row):
    depth, width, mlp: number of blocks, D, F.
    channels, outputs: of the latent; of the head per latent channel (2: learned variance).
    strides, causal: of the autoencoder in t, h, w; causal: 1 + 4k frames -> 1 + k.
    matrices: number of matrices in the mlp; 3 if it is gated.
    attention: 'joint', or 'factorised': even blocks within a frame, odd blocks along time.
    text: 'none', 'cross' (keys and values from L text tokens) or 'joint' (L more tokens).
    ada: outputs of adaLN in units of D, averaged over the blocks; ada_inputs: its inputs, 0 for D;
      ada_shared: one adaLN for all blocks; ada_folded: recomputed for every row that is folded
      into the batch.
    decode_macs: of the autoencoder's decoder, counted (tiled if the reference is); 0: unknown.
    clips_seen: ((clips, size), ...) in training; at_most: not all of them were that large.
  """

  name: str
  source: str
  parameters: Fact
  depth: int
  width: int
  mlp: int
  size: Size
  fps: Number | None
  steps: int
  branches: int
  channels: int = 16
  outputs: int = 1
  strides: Size = (4, 8, 8)
  causal: bool = True
  patch: Size = (1, 2, 2)
  matrices: int = 2
  attention: str = "joint"
  text: str = "none"
  text_tokens: int = 0
  text_width: int = 4096
  ada: int = 6
  ada_inputs: int = 0
  ada_shared: bool = False
  ada_folded: bool = False
  embeddings: int = 0
  decode_macs: int = 0
  clips_seen: tuple[tuple[Number, Size], ...] = ()
  clips_source: str = ""
  at_most: bool = False
  chip_hours: tuple[ChipHours, ...] = ()
  seconds: Fact | None = None
  chip: str = "H100"
  wh: Fact | None = None
  price: Fact | None = None
  tag: str = "derived"

  @property
  def grid(self) -> Size:
    """t, h, w of the tokens."""
    frames, height, width = self.size
    t = (frames - 1) // self.strides[0] + 1 if self.causal else max(frames // self.strides[0], 1)
    cells = (self.strides[i] * self.patch[i] for i in (1, 2))
    h, w = (pixels // cell for pixels, cell in zip((height, width), cells))
    return t // self.patch[0], h, w

  def of_size(self, size: Size) -> "System":
    return dataclasses.replace(self, size=size)

  def products(self) -> list[Product]:
    """Every matrix product of one forward pass of one clip."""
    t, h, w = self.grid
    n, d = h * w, self.width
    s, numbers = t * h * w, math.prod(self.patch) * self.channels
    out = [Product("patchify", s * numbers * d, 1), Product("time", (256 + d) * d)]
    if self.text != "none":
      layers = self.text_width + (d if self.text == "cross" else 0)
      out.append(Product("text", self.text_tokens * layers * d, 1))
    for layer in range(self.depth):
      over = "joint" if self.attention == "joint" else ("space", "time")[layer % 2]
      seen, rows = {"joint": (s, 1), "space": (n, t), "time": (t, n)}[over]  # keys; folded rows
      out += self._block(s, seen, rows if self.ada_folded else 1, layer == 0)
    if not self.ada_shared:
      out.append(Product("adaLN", (t if self.ada_folded else 1) * 2 * d * d))
    out.append(Product("head", s * d * numbers * self.outputs))
    return out

  def _block(self, s: int, seen: int, rows: int, first: bool) -> list[Product]:
    d, length = self.width, self.text_tokens
    mlp = self.matrices * d * self.mlp  # per token
    out = [
      Product("attention projections", s * 4 * d * d),
      Product("attention scores", 2 * s * seen * d),
      Product("mlp", s * mlp),
    ]
    if first or not self.ada_shared:
      out.append(Product("adaLN", rows * (self.ada_inputs or d) * self.ada * d))
    if self.text == "cross":
      projections = 2 * length * d * d + 2 * s * d * d  # keys and values; queries and outputs
      out.append(Product("text", projections + 2 * s * length * d))
    elif self.text == "joint":
      scores = 2 * ((s + length) ** 2 - s * s) * d
      out.append(Product("text", length * (4 * d * d + mlp) + scores))
    return out

  def row(self) -> Row:
    """This system as a row of the cost table."""
    seen = sum(
      clips * flops.count(self.of_size(size).products(), work="step")["total"]
      for clips, size in self.clips_seen
    )
    how = "3 x forward x clips seen, each of the stage's full size"
    trained = (Trained(seen, self.clips_source, how, self.at_most),) if self.clips_seen else ()
    same = {f.name for f in dataclasses.fields(self)} & {f.name for f in dataclasses.fields(Row)}
    unfolded = dataclasses.replace(self, ada_folded=False)
    image = unfolded.of_size((1, *self.size[1:]))
    return Row(
      **{name: getattr(self, name) for name in same},
      tokens=math.prod(self.grid),
      products=self.products(),
      image=image.products(),
      image_tokens=math.prod(image.grid),
      decode=[Product("VAE", self.decode_macs)] if self.decode_macs else None,
      training=trained + self.chip_hours,
      given="guess" if self.tag == "guess" else "published",
      variants={"adaLN once per clip": unfolded.products()} if self.ada_folded else {},
    )


COUNTED = "counted over its class in diffusers 0.42.1"
DIT = "Peebles & Xie 2023, arXiv:2212.09748"
LATTE = "Ma et al. 2024, arXiv:2401.03048; github.com/Vchitect/Latte (models/latte.py, ffs_sample)"
COGVIDEOX = "Yang et al. 2024, arXiv:2408.06072; README of github.com/zai-org/CogVideo"
LTX = "HaCohen et al. 2024, arXiv:2501.00103; inference defaults of github.com/Lightricks/LTX-Video"
WAN = "Wan team 2025, arXiv:2503.20314; github.com/Wan-Video/Wan2.1 (configs, README)"
HUNYUAN = "Kong et al. 2024, arXiv:2412.03603; README of github.com/Tencent/HunyuanVideo"
PENG = "Peng et al. 2025, arXiv:2503.09642"
OPEN_SORA = f"{PENG}; github.com/hpcaitech/Open-Sora (configs, README)"
MOVIE_GEN = "Polyak et al. 2024, arXiv:2410.13720"
FLUX = "github.com/black-forest-labs/flux; model card of FLUX.1-dev (steps, guidance)"
DELAVANDE = "Delavande et al. 2025, arXiv:2509.19222, one H100 SXM, diffusers"
PLAPPERT = "Plappert 2024, factorialfunds.com, Under The Hood: How OpenAI's Sora Model Works"
SORA = "guess: Movie Gen's network at 720p, 20 s, 24 fps; OpenAI published no size of Sora"


def _counted(number: int) -> Fact:
  return Fact(number, COUNTED, "derived")


_dit = System(
  "DiT-XL/2 image, 256", DIT, Fact(674_834_720, f"{DIT} (675M); exact by formula", "derived"),
  depth=28, width=1152, mlp=4608, size=(1, 256, 256), fps=None, steps=250, branches=2,
  channels=4, outputs=2, strides=(1, 8, 8), embeddings=1001 * 1152, decode_macs=311_093_594_000,
  clips_seen=((7e6 * 256, (1, 256, 256)),), clips_source=f"{DIT}: 7M steps of 256 images",
)  # fmt: skip
_wan_14b = System(
  "Wan 2.1 14B, 720p", WAN, _counted(14_288_491_584), depth=40, width=5120, mlp=13824,
  size=(81, 720, 1280), fps=16, steps=50, branches=2, text="cross", text_tokens=512,
  ada_shared=True, decode_macs=319_609_200_000_000,
  seconds=Fact(1837.9, f"{WAN}: comp_effic.png"), wh=Fact(415.1, f"{DELAVANDE}: GPU, CPU and RAM"),
)  # fmt: skip
_wan_1b = dataclasses.replace(
  _wan_14b, name="Wan 2.1 1.3B, 720p", parameters=_counted(1_418_996_800), depth=30, width=1536,
  mlp=8960, seconds=Fact(410, DELAVANDE), wh=Fact(90.5, f"{DELAVANDE}: GPU, CPU and RAM"),
)  # fmt: skip
_480p: dict[str, Any] = dict(size=(81, 480, 832), decode_macs=137_676_100_000_000, wh=None)
_cogvideox = System(
  "CogVideoX 2B", COGVIDEOX, _counted(1_693_783_872), depth=30, width=1920, mlp=7680,
  size=(49, 480, 720), fps=8, steps=50, branches=2, text="joint", text_tokens=226, ada=12,
  ada_inputs=512, decode_macs=157_514_000_000_000, seconds=Fact(45, COGVIDEOX),
  wh=Fact(9.7, f"{DELAVANDE}: GPU, CPU and RAM"),
)  # fmt: skip
_flux = System(
  "FLUX.1-dev image, 1024", FLUX, _counted(11_901_408_320), depth=57, width=3072, mlp=12288,
  size=(1, 1024, 1024), fps=None, steps=50, branches=1, strides=(1, 8, 8), text="joint",
  text_tokens=512, decode_macs=5_236_102_000_000,
)  # fmt: skip
_movie_gen = System(
  "Movie Gen 30B, 768p", f"{MOVIE_GEN} (number of text tokens assumed: 512)",
  Fact(30e9, f"{MOVIE_GEN}, without text encoders and autoencoder"),
  depth=48, width=6144, mlp=16384, matrices=3, size=(256, 768, 768), fps=16, steps=50, branches=2,
  strides=(8, 8, 8), causal=False, text="cross", text_tokens=512, ada_shared=True,
  clips_seen=((1.94e9, (1, 256, 256)), (394.8e6, (256, 256, 256)), (73.8e6, (256, 768, 768))),
  clips_source=f"{MOVIE_GEN}, Table 3: 1.94e9 images, 394.8e6 and 73.8e6 clips of 4 to 16 s; "
  f"{PENG}, Figure 6, estimates 1.25e6 H100-h",
  at_most=True,
)  # fmt: skip

SYSTEMS: tuple[System, ...] = (
  _dit,
  dataclasses.replace(
    _dit, name="DiT-XL/2 image, 512", size=(1, 512, 512), decode_macs=1_257_259_500_000,
    clips_seen=((3e6 * 256, (1, 512, 512)),), clips_source=f"{DIT}: 3M steps of 256 images",
  ),
  _flux,
  System(
    "Latte-XL/2", LATTE, Fact(673_681_568, f"{LATTE} (673.68M); exact by formula", "derived"),
    depth=28, width=1152, mlp=4608, size=(16, 256, 256), fps=8, steps=250, branches=1, channels=4,
    outputs=2, strides=(1, 8, 8), attention="factorised", ada_folded=True,
    decode_macs=16 * 311_093_594_000,
    chip_hours=(ChipHours("A100", 8 * 48, 8 * 72, "github.com/Vchitect/Latte/issues/54 and 101: "
                          "8 A100 for two to three days on FaceForensics"),),
  ),
  _cogvideox,
  dataclasses.replace(
    _cogvideox, name="CogVideoX 5B", parameters=_counted(5_570_283_072), depth=42, width=3072,
    mlp=12288, seconds=Fact(90, COGVIDEOX), wh=Fact(25.3, f"{DELAVANDE}: GPU, CPU and RAM"),
  ),
  System(
    "LTX-Video 2B", LTX, _counted(1_923_385_472), depth=28, width=2048, mlp=8192,
    size=(121, 512, 768), fps=24, steps=40, branches=2, channels=128, strides=(8, 32, 32),
    patch=(1, 1, 1), text="cross", text_tokens=128, ada_shared=True,
    decode_macs=20_754_810_000_000,
    seconds=Fact(2, "HaCohen et al. 2024, arXiv:2501.00103, abstract; sampling steps not given"),
    wh=Fact(3.7, f"{DELAVANDE}: GPU, CPU and RAM; at 512x704"),
  ),
  dataclasses.replace(_wan_1b, name="Wan 2.1 1.3B, 480p", seconds=Fact(95, DELAVANDE), **_480p),
  _wan_1b,
  dataclasses.replace(_wan_14b, name="Wan 2.1 14B, 480p", seconds=Fact(467, DELAVANDE), **_480p),
  _wan_14b,
  System(
    "HunyuanVideo 13B, 720p", HUNYUAN, _counted(12_821_012_544), depth=60, width=3072, mlp=12288,
    size=(129, 720, 1280), fps=24, steps=50, branches=1, text="joint", text_tokens=256,
    decode_macs=2_385_182_600_000_000,
    seconds=Fact(1904, f"{HUNYUAN}: one GPU, its kind not given, read as H100"),
  ),
  dataclasses.replace(
    _flux, name="Open-Sora 2.0 11B, 768p", source=OPEN_SORA,
    parameters=Fact(11e9, OPEN_SORA), size=(129, 768, 768), fps=24, branches=3,
    strides=(4, 8, 8), decode_macs=1_448_520_400_000_000, seconds=Fact(1656, OPEN_SORA),
    price=Fact(199_600, f"{PENG}, Table 2, at $2 per H200-hour"),
    chip_hours=(
      ChipHours("H200", 2624 * 24, 2624 * 24, f"{PENG}, Table 2: stages 1 and 2", mfu=0.3819),
      ChipHours("H200", 1536 * 24, 1536 * 24, f"{PENG}, Table 2: stage 3", mfu=0.3575),
    ),
  ),
  _movie_gen,
  dataclasses.replace(
    _movie_gen, name="Sora-class guess, 720p", source=SORA, parameters=Fact(30e9, SORA, "guess"),
    size=(480, 720, 1280), fps=24, tag="guess", clips_seen=(), clips_source="", at_most=False,
    seconds=Fact(240, f"{PLAPPERT}: at most 5 minutes of video per H100-hour", "guess"),
    chip_hours=(ChipHours("H100", 4200 * 730, 10500 * 730, f"{PLAPPERT}: 4,200 to 10,500 H100 for "
                          "a month (730 h)", tag="guess"),),
  ),
)  # fmt: skip
