"""Rates and distortions against closed forms, other people's programs and the packets."""

import dataclasses
import io
import math

import av
import numpy as np
import pytest
import scipy.fft

from videojax.measures import classical_codecs, code_length, distortion
from videojax.measures import rate_distortion as rd
from videojax.measures.classical_codecs import CODECS, encode

FORMATS = [(name, chroma) for name, codec in CODECS.items() for chroma in codec.chroma]
ONE, UNDEFINED = np.ones(1), np.full((1, 2, 1), np.nan)


def film(frames=6, height=32, width=32, clips=1):
  """Smooth colours that drift to the left."""
  y, x = np.mgrid[:height, :width]
  t, n = np.arange(frames)[:, None, None], np.arange(clips)[:, None, None, None]
  waves = [np.sin((x + 2 * t) / (5 + c) + n) * np.cos(y / (7 - c)) for c in range(3)]
  return np.round(127.5 + 110 * np.stack(waves, -1)).astype(np.uint8)


def curve(rates, qualities, codec="anchor"):
  points = [rd.Point("", rate, None, of, of / 100, {}) for rate, of in zip(rates, qualities)]
  return rd.Curve(codec, "", (1, 1, 11, 11), points)


# --- bits of latents and indices ----------------------------------------------------------------


def test_a_constant_sequence_costs_what_krichevsky_and_trofimovs_product_has():
  n = 100
  product = math.prod((i + 0.5) / (i + 1) for i in range(n))  # the binary estimator, all zeros
  assert code_length.code_length(np.array([n, 0])) == pytest.approx(-math.log2(product))
  assert code_length.code_length(np.array([n, 0])) == pytest.approx(
    0.5 * math.log2(math.pi * n), abs=0.01
  )


def test_a_fair_coin_costs_a_bit_a_toss_and_half_a_logarithm():
  n = 10_000
  bits = code_length.code_length(np.array([n // 2, n // 2]))
  assert bits == pytest.approx(n + 0.5 * math.log2(math.pi * n / 2), abs=0.01)


def test_the_closed_form_is_the_sum_over_symbols_of_a_coder_that_only_looks_back():
  symbols, size = np.random.default_rng(0).integers(0, 5, (1, 60, 1)) ** 2 // 4, 5
  seen, bits = np.zeros(size), 0.0
  for s in symbols[0, :, 0]:
    bits -= math.log2((seen[s] + 0.5) / (seen.sum() + size / 2))
    seen[s] += 1
  assert code_length.index_bits(symbols, [size])[0] == pytest.approx(bits)


def test_no_sequence_costs_less_than_its_entropy_nor_much_more():
  counts = np.random.default_rng(1).integers(1, 200, (50, 8))
  share = counts / counts.sum(-1, keepdims=True)
  entropy = -np.sum(counts * np.log2(share), -1)
  over = code_length.code_length(counts) - entropy
  assert np.all(over > 0)
  # the estimator's regret: (K-1)/2 log n + log K
  assert np.all(over <= 3.5 * np.log2(counts.sum(-1)) + 3)


def test_rare_codes_of_a_large_codebook_cost_about_the_codebooks_bits():
  indices = np.random.default_rng(2).permutation(64_000)[:256].reshape(1, 4, 8, 8, 1)
  fixed = code_length.fixed_length_bits([64_000], 256)
  assert fixed == pytest.approx(256 * math.log2(64_000))
  assert code_length.index_bits(indices, [64_000])[0] == pytest.approx(fixed, rel=0.005)


def test_channels_and_clips_are_coded_apart():
  a, b = np.random.default_rng(3).integers(0, 4, (2, 2, 50, 1))
  together = code_length.index_bits(np.concatenate([a, b], -1), [4, 4])
  apart = code_length.index_bits(a, [4]) + code_length.index_bits(b, [4])
  np.testing.assert_allclose(together, apart)
  np.testing.assert_allclose(code_length.index_bits(a[1:], [4]), code_length.index_bits(a, [4])[1:])


def test_latents_are_rounded_to_steps_of_their_channels_deviation():
  latents = np.array([[[0.0, 10.0], [0.6, 13.1], [-1.4, 9.0]]], np.float32)
  symbols, rounded = code_length.quantize(
    latents, step=0.5, mean=np.array([0.0, 10.0]), deviation=np.array([2.0, 4.0])
  )
  np.testing.assert_array_equal(symbols[0], [[0, 0], [1, 2], [-1, 0]])
  np.testing.assert_allclose(rounded[0], [[0, 10], [1, 14], [-1, 10]])
  assert rounded.dtype == np.float32


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_normal_latents_cost_their_entropy_within_four_percent(step):
  latents = np.random.default_rng(4).normal(size=(4, 4, 8, 8, 16))
  mean, deviation = np.zeros(16), np.ones(16)
  symbols, _ = code_length.quantize(latents, step=step, mean=mean, deviation=deviation)
  edges = (np.arange(-200, 202) - 0.5) * step
  share = np.diff([math.erf(edge / math.sqrt(2)) / 2 for edge in edges])
  entropy = -np.sum(share[share > 0] * np.log2(share[share > 0]))
  per_symbol = code_length.latent_bits(symbols, step) / symbols[0].size
  np.testing.assert_allclose(per_symbol, entropy, rtol=0.04)


def test_a_channel_that_never_changes_costs_little_though_its_alphabet_is_large():
  bits = code_length.latent_bits(np.zeros((1, 4, 16, 16, 1), int), 0.5)
  assert bits[0] < 0.15 * 1024


@pytest.mark.parametrize(
  "call,words",
  [
    (lambda: code_length.index_bits(np.full((1, 2, 1), 7), [7]), "symbols 7..7.*0..6"),
    (lambda: code_length.index_bits(np.zeros((1, 2, 3), int), [7]), "1 codebooks for 3 channels"),
    (lambda: code_length.latent_bits(np.full((1, 2, 1), 99), 1.0), "symbols 115"),
    (lambda: code_length.latent_bits(np.zeros((1, 2, 1), int), 0.0), "step=0.0 must be positive"),
    (
      lambda: code_length.quantize(
        np.full((1, 2, 1), np.nan), step=1.0, mean=0 * ONE, deviation=ONE
      ),
      "NaN or infinite",
    ),
    (
      lambda: code_length.quantize(np.ones((1, 2, 1)), step=1.0, mean=ONE, deviation=0 * ONE),
      "deviation=.*positive",
    ),
  ],
)
def test_bits_of_what_cannot_be_coded_are_refused_in_words(call, words):
  with pytest.raises(ValueError, match=words):
    call()


# --- distortion ---------------------------------------------------------------------------------


def test_psnr_of_a_known_offset():
  truth = np.full((2, 3, 16, 16, 3), 100, np.uint8)
  other = truth.copy()
  other[1] += 5
  assert distortion.psnr(truth, truth + 5) == pytest.approx(20 * math.log10(255 / 5))
  # an exact clip halves the mean squared error; it does not make PSNR infinite
  assert distortion.psnr(truth, other) == pytest.approx(10 * math.log10(255**2 / 12.5))
  assert distortion.psnr(truth, truth) == math.inf


def test_ssim_is_that_of_scikit_image():
  y, x, c = np.mgrid[:24, :20, :3]
  rough = ((7 * x * y + 31 * x + 17 * y + 50 * c) % 256).astype(np.uint8)
  noisy = np.clip(rough.astype(int) + (x * 5 + y * 3 + c * 11) % 23 - 11, 0, 255).astype(np.uint8)
  smooth = (128 + 100 * np.sin(x / 3) * np.cos(y / 4 + c)).astype(np.uint8)
  paler = np.clip(smooth * 0.8 + 30 + ((x + y) % 3) * 4, 0, 255).astype(np.uint8)
  # scikit-image 0.26.0: structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
  # use_sample_covariance=False, data_range=255, channel_axis=-1)
  for a, b, golden in ((rough, noisy, 0.9960830697835753), (smooth, paler, 0.9585261016493837)):
    assert distortion.ssim(a[None, None], b[None, None])[0] == pytest.approx(golden, abs=1e-9)


def test_ssim_of_two_greys_is_its_luminance_term():
  a, b, c1 = 100.0, 120.0, (0.01 * 255) ** 2
  clips = [np.full((1, 1, 11, 11, 3), grey, np.uint8) for grey in (a, b)]
  assert distortion.ssim(*clips)[0] == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_ssim_of_frames_smaller_than_its_window_is_refused_in_words():
  with pytest.raises(ValueError, match="at least 11x11 pixels, not 10x40"):
    distortion.ssim(film(height=10, width=40), film(height=10, width=40))


def test_a_world_shifted_by_a_pixel_has_a_position_error_of_a_pixel():
  from data_pipelines.worlds import Config, Source
  from videojax.io.media import to_uint8

  source = Source(Config(size=32, frames=4, scenes=("one",), split="id"))
  example = source.decode({"index": np.arange(3, dtype=np.uint32)})
  error = rd.motion(distortion.position_error(extent=10.0, fps=10.0), example["state"])
  true = to_uint8(np.asarray(example["video"]))
  assert np.all(error(true) < 0.05)
  np.testing.assert_allclose(error(np.roll(true, 1, 3)), 1, atol=0.05)


# --- classical codecs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name,chroma", FORMATS)
def test_a_lower_crf_gives_more_bits_and_a_higher_psnr(name, chroma):
  clips = film(height=64, width=64, clips=2)
  few, many = rd.classical(name, clips, chroma=chroma, fps=25.0, crfs=(40, 15)).points
  assert many.bits_per_pixel > 1.2 * few.bits_per_pixel
  assert many.psnr_db > few.psnr_db + 1
  assert many.ssim > few.ssim


@pytest.mark.parametrize("name,chroma", FORMATS)
@pytest.mark.parametrize("size", [(32, 32), (11, 13), (33, 47), (40, 70)])
def test_any_size_comes_back_as_it_was(name, chroma, size):
  clips = film(frames=3, height=size[0], width=size[1])
  out = encode(name, clips, 20, chroma=chroma)
  assert out.video.shape == clips.shape
  assert distortion.psnr(clips, out.video) > 28
  assert all(coded >= side for coded, side in zip(out.size, size))


def test_a_single_frame_is_a_clip():
  for name, chroma in FORMATS:
    assert encode(name, film(frames=1), 20, chroma=chroma).video.shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize("name", ["x264", "svt-av1"])
def test_a_clip_gives_the_same_bits_each_time(name):
  first, second = (encode(name, film(), 25, chroma="420") for _ in range(2))
  np.testing.assert_array_equal(first.bits, second.bits)
  np.testing.assert_array_equal(first.video, second.video)


@pytest.mark.parametrize("name,muxer", [("x264", "h264"), ("x265", "hevc")])
def test_bits_are_the_size_of_a_file_of_the_packets_alone_that_any_reader_decodes(name, muxer):
  codec, clip = CODECS[name], film()[0]
  stream = classical_codecs.packets(codec, clip, 25, chroma="444", fps=25.0)
  file = b"".join(bytes(packet) for packet in stream)
  assert classical_codecs.count_bits(stream) == 8 * len(file)
  with av.open(io.BytesIO(file), format=muxer) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
  np.testing.assert_array_equal(np.stack(frames), classical_codecs.decode(codec, stream))


@pytest.mark.parametrize("name", CODECS)
def test_the_bytes_that_are_counted_are_enough_to_decode(name):
  codec, clips = CODECS[name], film()
  stream = classical_codecs.packets(codec, clips[0], 25, chroma="420", fps=25.0)
  files = [bytes(packet) for packet in stream]
  decoded = classical_codecs.decode(codec, [av.Packet(file) for file in files])
  np.testing.assert_array_equal(decoded, classical_codecs.decode(codec, stream))
  if name != "x265":  # its streams differ from run to run
    out = encode(name, clips, 25, chroma="420")
    assert out.bits[0] == 8 * sum(map(len, files))
    np.testing.assert_array_equal(out.video[0], decoded)


@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_counted_is_not_needed(name):
  """The encoder's own packets, with all their messages, decode to the same pictures."""
  codec = CODECS[name]
  everything = dataclasses.replace(codec, unneeded="9" if codec.standard != "av1" else "15")
  out = [
    classical_codecs.decode(c, classical_codecs.packets(c, film()[0], 25, chroma="420", fps=25.0))
    for c in (everything, codec)
  ]
  if name != "x265":  # its streams differ from run to run
    np.testing.assert_array_equal(*out)
  assert distortion.psnr(out[0][None], out[1][None]) > 35


@pytest.mark.parametrize("name,chroma", FORMATS)
def test_headers_are_a_counted_part_that_does_not_grow_with_the_clip(name, chroma):
  short, long = (encode(name, film(frames=t), 20, chroma=chroma) for t in (3, 9))
  assert 0 < short.header_bits[0] < short.bits[0]
  assert abs(long.header_bits[0] - short.header_bits[0]) <= 16
  assert long.bits[0] > short.bits[0]


@pytest.mark.parametrize(
  "settings,words",
  [
    (("x263", 20, "444"), "no classical codec 'x263'.*x264"),
    (("svt-av1", 20, "444"), "no chroma format of svt-av1 '444'.*420"),
    (("x265", 52, "420"), r"x265 has no CRF 52: it must be in 0\.\.51"),
  ],
)
def test_what_an_encoder_cannot_do_is_refused_in_words(settings, words):
  name, crf, chroma = settings
  with pytest.raises(ValueError, match=words):
    encode(name, film(), crf, chroma=chroma)


# --- curves -------------------------------------------------------------------------------------


def test_curves_apart_by_a_factor_of_rate_have_that_factor_as_bd_rate():
  rates, of = np.array([0.1, 0.25, 0.4, 1.1, 2.0]), [30.0, 33.5, 35.0, 40.0, 42.0]
  got = rd.bd_rate(curve(rates, of), curve(0.7 * rates, of))
  assert got.change == pytest.approx(-0.3)
  assert (got.low, got.high, got.covered) == (30, 42, 1)
  assert rd.bd_rate(curve(0.7 * rates, of), curve(rates, of), "ssim").change == pytest.approx(3 / 7)


@pytest.mark.parametrize(
  "rate_a,psnr_a,rate_t,psnr_t,golden",
  [
    # The example of the package bjontegaard (FAU-LMS; x265 at two presets). Golden: its version
    # 1.3.0 with method='pchip', which equals JVET's spreadsheet to ten digits, its README says.
    ([9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851],
     [9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987], -4.417485350589045),
    # The example of Bjontegaard_metric (Python; widely copied), golden as above.
    ([686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42],
     [893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24], 31.379878202397627),
  ],
)  # fmt: skip
def test_bd_rate_is_that_of_published_examples(rate_a, psnr_a, rate_t, psnr_t, golden):
  got = rd.bd_rate(curve(rate_a, psnr_a), curve(rate_t, psnr_t))
  assert 100 * got.change == pytest.approx(golden, abs=1e-9)


def test_exact_points_are_left_out_of_bd_rate():
  rates, of = [1.0, 2.0, 3.0, 4.0, 9.0], [30.0, 33.0, 35.0, 36.0, math.inf]
  assert rd.bd_rate(curve(rates, of), curve(rates[:4], of[:4])).change == pytest.approx(0)


@pytest.mark.parametrize(
  "rates,of,words",
  [
    ([1, 2, 3, 4], [50, 51, 52, 53], "anchor 30 to 36, test 50 to 53"),
    ([1, 2, 3], [30, 33, 35], "test has 3 points.*needs 4"),
    ([1, 2, 3, 4], [30, 33, 32, 36], "test: psnr_db does not rise"),
    ([1, 2, 2, 4], [30, 33, 34, 36], "test: psnr_db does not rise"),
  ],
)
def test_curves_without_a_bd_rate_are_refused_in_words(rates, of, words):
  anchor = curve([1.0, 2.0, 3.0, 4.0], [30.0, 33.0, 35.0, 36.0])
  with pytest.raises(ValueError, match=words):
    rd.bd_rate(anchor, curve([float(r) for r in rates], [float(q) for q in of], "test"))


def test_a_point_counts_bits_per_pixel_of_a_frame_and_averages_defined_errors():
  truth = film(frames=2, height=16, width=20, clips=2)
  got = rd.point(
    "step 1", np.array([640, 1280]), truth, truth, header_bits=np.array([10, 20]),
    errors={"half": lambda _: np.array([3.0, np.nan]), "none": lambda _: np.full(2, np.nan)},
  )  # fmt: skip
  assert got == rd.Point("step 1", 1.5, 15.0, math.inf, 1.0, {"half": 3.0, "none": None})


def test_a_coarser_step_of_a_transform_codec_gives_fewer_bits_and_a_lower_psnr():
  """From latents to a point: a DCT of 8x8 squares stands in for a network."""
  truth = film(height=32, width=32, clips=2)
  squares = truth.reshape(2, 6, 4, 8, 4, 8, 3).astype(np.float32)
  latents = scipy.fft.dctn(squares, axes=(3, 5), norm="ortho").transpose(0, 1, 2, 4, 3, 5, 6)
  shape, flat = latents.shape, latents.reshape(2, 6, 4, 4, -1)
  mean, deviation = flat.mean((0, 1, 2, 3)), np.maximum(flat.std((0, 1, 2, 3)), 1)
  points = []
  for step in (0.1, 0.5, 2.0):
    symbols, rounded = code_length.quantize(flat, step=step, mean=mean, deviation=deviation)
    back = rounded.reshape(shape).transpose(0, 1, 2, 4, 3, 5, 6)
    decoded = scipy.fft.idctn(back, axes=(3, 5), norm="ortho").reshape(truth.shape)
    decoded = np.clip(np.rint(decoded), 0, 255).astype(np.uint8)
    bits = code_length.latent_bits(symbols, step)
    points.append(rd.point(f"step {step:g}", bits, truth, decoded))
  fine, middle, coarse = points
  assert fine.bits_per_pixel > middle.bits_per_pixel > coarse.bits_per_pixel > 0
  assert fine.psnr_db > middle.psnr_db > coarse.psnr_db > 10


def test_a_point_of_other_clips_is_refused_in_words():
  with pytest.raises(ValueError, match="step 1: .*bits of 3 clips: they must agree"):
    rd.point("step 1", np.ones(3), film(), film())


def test_tables_show_what_is_not_there_as_such():
  curves = [curve([0.5], [30.0]), curve([0.25], [math.inf], "neural")]
  text = rd.to_text(curves)
  assert "neural: ; 1x1x11x11 (N T H W)" in text
  assert text.splitlines()[-1].split() == ["neural", "-", "0.2500", "-", "inf", "inf"]
  assert rd.to_csv(curves).splitlines() == [
    "codec,setting,bits_per_pixel,header_bits_per_clip,psnr_db,ssim,clips,detail",
    "anchor,,0.5,,30.0,0.3,1x1x11x11,",
    "neural,,0.25,,inf,inf,1x1x11x11,",
  ]
