import dataclasses
import functools
import json
import math

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.helpers import filled, tiny, tiny_dict, write_config
from tests.test_launch import command  # noqa: F401 (a fixture)
from videojax import launch
from videojax.errors import ConfigError
from videojax.io import media
from videojax.io.claim import claim
from videojax.modes import generate as mode
from videojax.modes.clip_manifest import Manifest
from videojax.modes.other_size import at_size
from videojax.modes.prompt_examples import Examples
from videojax.modes.prompts import Row, rows_of
from videojax.sample import clip_flops
from videojax.scaling import flops
from videojax.sharding import MeshConfig, make_mesh
from videojax.train import train

TEXT = dict(
  total_steps=1, model__text="bytes", condition__masks=("start", "one", "none", "ends"),
  evaluate__coherence_clips=0, evaluate__clips=1, evaluate__reference_clips=2,
)  # fmt: skip
GUIDED = dict(TEXT, guidance__scale=3.0)
PROMPT, OTHER = "large red disc moves left slow", "small blue disc moves right fast"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """A folder with first.png, last.png and film.mp4, 24 pixels high and 40 wide."""
  folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
  for name in ("first", "last"):
    Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(folder / f"{name}.png")
  blocks = rng.integers(0, 256, (6, 3, 5, 3), np.uint8).repeat(8, 1).repeat(8, 2)
  media.write_mp4(folder / "film.mp4", blocks, fps=8.0)
  return folder


@functools.cache
def drawn():
  """Weights of which none is 0."""
  return jax.device_get(filled(tiny(**TEXT).model.abstract_params))  # for every mesh, so on none


def made(e, rows, devices=1, batch=7):
  """The clips of rows, float32 [N,T,H,W,C], by a batch of this size on this many devices."""
  e = dataclasses.replace(e, evaluate=dataclasses.replace(e.evaluate, batch_size=batch))
  examples = Examples(e.task("worlds"))
  clips = [mode._clip({}, row, examples.given(row)) for row in rows]
  mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
  with jax.set_mesh(mesh):
    out = list(mode._made(e, examples, drawn(), mesh, clips))
  assert [clip for clip, *_ in out] == clips
  return np.stack([video for _, video, _ in out])


def test_clips_are_the_same_on_1_and_8_devices_in_batches_of_1_and_7(pictures):
  begins = [{}, {"image": pictures / "first.png"}, {"video": pictures / "film.mp4"}]
  rows = [
    Row(PROMPT if i % 2 else OTHER, "" if i % 3 else "gravity", seed=i, **begins[i % 3])
    for i in range(9)
  ]
  e = tiny(**GUIDED)
  one = made(e, rows, devices=1, batch=1)
  others = {(d, b): made(e, rows, d, b) for d, b in ((1, 7), (8, 1), (8, 7))}
  differences = {where: np.abs(clips - one).max() for where, clips in others.items()}
  print(differences)
  assert max(differences.values()) < 1e-5
  assert np.abs(one[0] - one[1]).max() > 0.1  # and are not all the same


def test_clip_does_not_depend_on_the_other_rows():
  e, row = tiny(**GUIDED), Row(PROMPT, seed=3)
  among = made(e, [Row(OTHER, "gravity", seed=4), Row(seed=5), row])
  np.testing.assert_allclose(among[2], made(e, [row])[0], atol=1e-5)


def test_seed_and_prompt_each_change_the_clip():
  clips = made(tiny(**GUIDED), [Row(PROMPT, seed=1), Row(PROMPT, seed=2), Row(OTHER, seed=1)])
  assert np.abs(clips[1] - clips[0]).max() > 0.1
  assert np.abs(clips[2] - clips[0]).max() > 1e-3


def test_negative_prompt_replaces_the_dropped_text_in_its_own_row_alone():
  rows = [Row(PROMPT, seed=1), Row(PROMPT, PROMPT, seed=1), Row(PROMPT, OTHER, seed=1)]
  null, same, other = made(tiny(**GUIDED), rows)
  plain = made(tiny(**TEXT), [Row(PROMPT, seed=1)])[0]
  np.testing.assert_allclose(same, plain, atol=1e-5)  # towards a text from the same text: nothing
  np.testing.assert_allclose(null, made(tiny(**GUIDED), rows[:1])[0], atol=1e-5)
  assert min(np.abs(a - b).max() for a, b in ((null, plain), (other, null), (other, plain))) > 1e-3


def test_known_frames_of_pictures_and_films_are_in_the_clip(pictures):
  e = tiny(**TEXT)
  first, last, film = (pictures / name for name in ("first.png", "last.png", "film.mp4"))
  rows = [Row(image=first), Row(video=film), Row(video=film, last=last), Row()]
  examples = Examples(e.task("worlds"))
  masks = [examples.given(row).mask.tolist() for row in rows]
  assert masks == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]]
  for row, clip in zip(rows, made(e, rows)):
    given = examples.given(row)
    np.testing.assert_array_equal(media.to_uint8(clip)[given.mask], given.frames)


def test_a_picture_is_cut_to_its_centre_square(pictures):
  e = tiny(**TEXT, data__worlds__size=24, model__patch=(2, 4, 4))
  picture = np.asarray(Image.open(pictures / "first.png"))
  given = Examples(e.task("worlds")).given(Row(image=pictures / "first.png"))
  np.testing.assert_array_equal(given.frames[0], picture[:, 8:32])


KNOWS, IMAGE = dict(condition__masks=("start",)), dict(image="first.png")


@pytest.mark.parametrize(
  "changes,row,words",
  [
    (dict(model__text=None), dict(prompt="x"), "line 7: the model takes no text"),
    (dict(condition__drop=0.0), {}, "line 7: the model was never trained without text"),
    (dict(model__scalars=("motion",), condition__drop=0.0), {}, "takes motion, which a prompt"),
    (KNOWS, IMAGE, r"line 7: the model makes clips from the first 2 frames \(--video\)$"),
    (KNOWS, {}, "line 7: the model makes clips from the first 2 frames"),
    (KNOWS, dict(video="film.mp4", last="last.png"), "from the first 2 frames"),
    (dict(model__known=None, condition__known_frames=0), IMAGE, "line 7: .*no known frames"),
    ({}, dict(video="short.mp4"), "no such file"),
    ({}, dict(image="film.mp4"), "line 7: .*film.mp4 is not a picture"),
    ({}, dict(video="first.png"), "line 7: .*first.png"),
  ],
)  # fmt: skip
def test_what_the_model_does_not_take_is_said_in_words(pictures, changes, row, words):
  files = {k: pictures / v for k, v in row.items() if k != "prompt"}
  row = Row(**{**row, **files}, place="line 7")
  with pytest.raises(ConfigError, match=words):
    examples = Examples(tiny(**{**TEXT, **changes}).task("worlds"))
    examples.check([row])
    examples.given(row)


def test_film_that_is_too_short_is_named(pictures):
  e = tiny(**TEXT, data__worlds__fps=1.0)  # its 0.75 s have one frame at this rate
  with pytest.raises(ConfigError, match=r"film.mp4 is too short: 1 of 2 frames, at 1 frames per"):
    Examples(e.task("worlds")).given(Row(video=pictures / "film.mp4"))


def test_model_of_a_first_frame_needs_one(pictures):
  e = tiny(
    **{**TEXT, "model__known": None, "condition__known_frames": 0, "condition__masks": ("start",)},
    model__volumes={"first": 3}, model__scalars=("augmentation", "fps"),
  )  # fmt: skip
  examples = Examples(e.task("worlds"))
  with pytest.raises(ConfigError, match="takes a first frame: give --image or --video"):
    examples.given(Row())
  row = Row(video=pictures / "film.mp4")
  example = examples.of([row], [examples.given(row)], negative=False)
  _, cond = examples.task.prepare({}, jax.tree.map(jnp.asarray, example))
  first = examples.given(row).frames[0].astype(np.float32) / 127.5 - 1
  assert np.abs(np.asarray(cond.volumes["first"][0]) - first).max() < 0.15  # noise of .02
  assert float(cond.scalars["fps"][0]) == examples.fps


def test_long_texts_are_cut_at_a_whole_character_and_counted(capsys):
  examples = Examples(tiny(**TEXT).task("worlds"))
  text = "x" * (examples.text_bytes - 1) + "é"
  examples.check([Row(text, seed=0), Row(text, seed=1), Row("short")])
  assert f"1 of 2 texts are longer than the {examples.text_bytes} bytes" in capsys.readouterr().out
  assert bytes(examples.text([text])["caption"][0]) == text[:-1].encode() + b"\0"


@pytest.mark.parametrize("frames,size,shape", [(8, None, (8, 16, 16)), (4, "8x12", (4, 8, 12))])
def test_clips_have_the_size_that_is_asked_for_and_cost_what_it_costs(frames, size, shape):
  e = tiny(**TEXT)
  plain = e.task("worlds")
  task = at_size(plain, frames, size)
  assert at_size(plain, 4, "16") == plain or at_size(plain, 4, "16").source.shape == (4, 16, 16, 3)
  examples, mesh = Examples(task), make_mesh(MeshConfig(), jax.devices()[:1])
  clips = [mode._clip({}, row, examples.given(row)) for row in (Row(PROMPT), Row(OTHER))]
  with jax.set_mesh(mesh):
    made = [video for _, video, _ in mode._made(e, examples, drawn(), mesh, clips)]
  assert all(video.shape == (*shape, 3) for video in made)
  tokens = math.prod(n // p for n, p in zip(shape, (2, 4, 4)))
  assert task.tokens == tokens != plain.tokens
  cost = lambda task: clip_flops(task, e.sampler, e.guidance)["denoise"]
  assert (cost(task) > cost(plain)) == (tokens > plain.tokens)


@pytest.mark.parametrize(
  "frames,size,words",
  [
    (None, "16x16x16", "must be a number of pixels, or HEIGHTxWIDTH"),
    (None, "no", "must be a number"),
    (3, None, "do not divide into patches of 2 x 4 x 4: use multiples of 4 x 4 pixels"),
    (4, "18", "do not divide into patches"),
    (10**6, "10000", "more than"),
  ],
)
def test_sizes_that_the_model_does_not_take_are_said_in_words(frames, size, words):
  with pytest.raises(ConfigError, match=words):
    at_size(tiny(**TEXT).task("worlds"), frames, size)


# --- the lines of a file ------------------------------------------------------------------------


def write_lines(path, *lines):
  path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))
  return path


def test_lines_give_clips_with_consecutive_seeds_and_flags_fill_what_they_leave_out(tmp_path):
  path = write_lines(
    tmp_path / "p.jsonl", {"prompt": " a ", "num": 2, "seed": 5}, "\n", {"image": "x/i.png"},
    {"prompt": None, "seed": 2**32 - 1},
  )  # fmt: skip
  a, b, c, d = rows_of(path, {"negative": "n", "video": "v.mp4", "seed": 9})
  assert (a.prompt, a.seed, b.seed, c.seed, d.seed) == ("a", 5, 6, 9, 2**32 - 1)
  assert {row.negative for row in (a, b, c, d)} == {"n"} and a.video.name == "v.mp4"
  assert c.image == tmp_path / "x" / "i.png" and c.video is None
  assert [row.place[-6:] for row in (a, b, c, d)] == ["line 1", "line 1", "line 3", "line 4"]


@pytest.mark.parametrize(
  "line,words",
  [
    ({"promt": "x"}, "has no key 'promt': did you mean 'prompt'"),
    ("{'prompt': 1}\n", "damaged"),
    ("[1]\n", "wanted an object"),
    ({"prompt": 3}, "prompt must be text, not 3"),
    ({"prompt": "a\0"}, "null byte"),
    ({"prompt": "\ud800"}, "half a character"),
    ({"seed": -1}, "seed must be a whole number from 0"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"num": True}, "num must be a whole number from 1"),
    ({"num": 2, "seed": 2**32 - 1}, "the last seed"),
    ({"image": 3}, "image must be text"),
    ({"image": "a.png", "video": "b.mp4"}, "not with both"),
  ],
)
def test_malformed_line_is_named_by_its_number(tmp_path, line, words):
  path = write_lines(tmp_path / "p.jsonl", {"prompt": "x"}, line)
  with pytest.raises(ConfigError, match=f"p.jsonl, line 2.*{words}"):
    rows_of(path, {})


def test_damaged_lines_of_a_manifest_are_removed_and_whole_ones_kept(tmp_path, capsys):
  path = write_lines(tmp_path / "manifest.jsonl", {"file": "a.mp4", "seed": 1}, '{"file": "b.m')
  (tmp_path / "a.mp4").touch()
  manifest = Manifest(path)
  assert manifest.has("a.mp4", {"seed": 1}) and not manifest.has("a.mp4", {"seed": 2})
  assert not manifest.has("b.mp4", {}) and "damaged lines removed" in capsys.readouterr().out
  manifest.add({"file": "c.mp4", "dollars": float("nan")})
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines == [{"file": "a.mp4", "seed": 1}, {"file": "c.mp4", "dollars": None}]


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with text and masks."""
  path = tmp_path_factory.mktemp("runs") / "run"
  train(tiny(**TEXT), path)
  return path


def lines_of(out):
  return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_command_writes_clips_manifest_and_grid_once(command, run, pictures, tmp_path):  # noqa: F811
  film = str(pictures / "film.mp4")
  prompts = write_lines(
    tmp_path / "p.jsonl", {"prompt": PROMPT, "num": 2}, {"prompt": OTHER, "video": film},
  )  # fmt: skip
  ask = ["--mode=generate", f"--workdir={run}", f"--prompts={prompts}", "--config.sampler.steps=1"]
  code, out, err = command(*ask)
  assert code == 0, err
  lines = lines_of(run / "generated")
  assert "3 clips: " in out and [line["seed"] for line in lines] == [0, 1, 0]
  assert all(line["steps"] == 1 and line["dollars"] is None for line in lines)
  assert all(line["seconds"] > 0 and line["flops"] > 0 for line in lines)
  assert lines[2]["video"] == film and lines[2]["size"] == [4, 16, 16]
  for line in lines:
    with av.open(str(run / "generated" / line["file"])) as file:
      assert file.streams.video[0].frames == 4
      assert float(file.streams.video[0].average_rate) == round(line["fps"])
  with Image.open(run / "generated" / "grid.webp") as grid:
    assert grid.n_frames == 4
  # Again: one file is lost, one line is damaged; the third clip is kept, and a new one made.
  (run / "generated" / lines[0]["file"]).unlink()
  manifest = run / "generated" / "manifest.jsonl"
  manifest.write_text(manifest.read_text()[:-5])
  code, out, _ = command(*ask)
  assert code == 0 and "2 clips, 1 were there already" in out
  files = [line["file"] for line in lines_of(run / "generated")]
  assert files == [lines[i]["file"] for i in (0, 1, 0, 2)]
  code, out, _ = command(*ask)
  assert code == 0 and "0 clips, 3 were there already\n" in out
  code, out, _ = command(*ask, "--config.sampler.steps=2")
  assert code == 0 and "3 clips: " in out


def test_weights_of_init_from_make_the_clips_of_the_run_that_has_them(command, run, tmp_path):  # noqa: F811
  ask = [f"--prompt={PROMPT}", "--mode=generate", "--config.sampler.steps=1"]
  write_config(tmp_path / "e.py", tiny_dict(**TEXT))
  file, out = f"--config={tmp_path / 'e.py'}", tmp_path / "out"
  assert command(*ask, f"--workdir={run}", f"--out={out}")[0] == 0
  code, _, err = command(*ask, file, f"--workdir={tmp_path / 'new'}", f"--config.init_from={run}")
  assert code == 0, err
  (one,), (other,) = lines_of(out), lines_of(tmp_path / "new" / "generated")
  assert one["weights"] == other["weights"] and one["file"] == other["file"]
  clips = [out / one["file"], tmp_path / "new" / "generated" / one["file"]]
  np.testing.assert_array_equal(*(media.read_mp4(path) for path in clips))


@pytest.mark.parametrize(
  "flags,words",
  [
    (["--prompt=x", "--negative=y"], "add --config.guidance.scale"),
    (["--prompt=x", "--prompts=p.jsonl"], "not both"),
    (["--prompts=p.txt"], "must be a .jsonl file"),
    (["--prompts=nowhere.jsonl"], "nowhere.jsonl does not exist"),
    (["--image=nowhere.png"], "nowhere.png cannot be read: no such file"),
    (["--prompt=x", "--num=0"], "num must be a whole number from 1"),
    (["--prompt=x", "--config.sampler.stepper=nosuch"], "stepper"),
    (["--prompt=x", "--config.seed=3"], "different experiment"),
    (["--prompt=x", "--config.sampler.window=3"], "sampler"),
    (["--promt=x"], "Did you mean: prompt"),
  ],
)
def test_mistakes_are_said_before_anything_is_made(command, tmp_path, run, flags, words):  # noqa: F811
  out = tmp_path / "out"
  code, _, err = command("--mode=generate", f"--workdir={run}", f"--out={out}", *flags)
  assert code == 1 and words in err and "Traceback" not in err and not out.exists()


def test_directory_without_a_run_is_named_and_not_created(command, tmp_path):  # noqa: F811
  code, _, err = command("--mode=generate", f"--workdir={tmp_path / 'no'}", "--prompt=x")
  assert code == 1 and "is not a run directory" in err and not (tmp_path / "no").exists()


def test_clips_of_two_commands_do_not_mix(command, run, tmp_path):  # noqa: F811
  with claim(tmp_path / "out", "another's clips", "generate"):
    code, _, err = command(
      "--mode=generate", f"--workdir={run}", f"--out={tmp_path / 'out'}", "--prompt=x"
    )
  assert code == 1 and "is in use by process" in err


def test_flops_count_every_call_of_the_network():
  e = tiny(**TEXT, sampler={"steps": 5, "stepper": "heun"}, guidance={"scale": 2.0})
  task = e.task("worlds")
  each = flops.forward(task.products())["total"]
  made = clip_flops(task, e.sampler, e.guidance)
  assert made == {"denoise": 9 * 2 * each, "decode": 0}


def test_help_explains_the_flags(command):  # noqa: F811
  code, out, _ = command("--help")
  assert code == 0 and "--mode=generate --workdir=RUN" in out and "FILE.jsonl" in out
  assert "generate" in launch.MODES
