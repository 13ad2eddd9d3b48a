import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_svd as golden
from tests.helpers import check_flops, draw, filled, relative_error
from videojax.diffusion.denoiser import Denoiser
from videojax.diffusion.process import make_process
from videojax.diffusion.samplers import Sampler, sample
from videojax.models import svd
from videojax.models.cond import Cond, drop
from videojax.runs import weights
from videojax.scaling import mup
from videojax.sharding import by_path
from videojax.specs import ModelSpec

BASE = dict(golden.SIZES, channels=golden.CHANNELS, dtype="float32")
CONDITIONS = dict(
  image=golden.IMAGE, scalars=golden.SCALARS, volumes=dict(first=golden.CHANNELS)
)  # fmt: skip


def spec(**changes):
  return ModelSpec("svd", svd.Config(**{**BASE, **changes}))


# --- the reference ----------------------------------------------------------------------------

STORED = np.load(Path(golden.__file__).with_name("svd.npz"))
REFERENCE = spec(**CONDITIONS)


def from_reference(model, value):
  """Our parameters, each from `value(name in the reference)`."""
  names = svd.names(model.config)

  def one(path, leaf):
    name, layout = names["/".join(key.key for key in path)]
    return jnp.asarray(weights.from_torch(value(name), layout, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, model.abstract_params)


def reference_shapes():
  shapes = (tuple(int(n) for n in s.strip("(),").split(",")) for s in STORED["shapes"])
  return dict(zip(STORED["names"].tolist(), shapes))


def reference_params():
  shapes = reference_shapes()
  return from_reference(REFERENCE, lambda name: golden.weight(name, shapes[name]))


def inputs(case):
  v = {name: jnp.asarray(x, jnp.float32) for name, x in golden.inputs(case).items()}
  scalars = dict(zip(golden.SCALARS, v["ids"].T))
  scalars["fps"] += 1  # the reference is given frames per second less one
  cond = Cond(
    image=v["image"], image_mask=jnp.ones(v["image"].shape[:2], bool), scalars=scalars,
    volumes=dict(first=v["first"]),
  )  # fmt: skip
  return v["x"], v["t"][:, None], cond, v["probe"]


def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape():
  ours, names = by_path(REFERENCE.abstract_params), svd.names(REFERENCE.config)
  there = {
    name: weights.there(layout, ours[path].shape, REFERENCE.info[path].inputs)
    for path, (name, layout) in names.items()
  }
  assert len(there) == len(ours) and there == reference_shapes()


@pytest.mark.parametrize(
  "case", ["image", pytest.param("clip of odd size", marks=pytest.mark.slow)]
)
def test_output_is_the_references(case):
  x, t, cond, _ = inputs(case)
  out = jax.jit(lambda p: REFERENCE.network(p)(x, t, cond))(reference_params())
  assert relative_error(out, STORED[f"{case} output"]) < 1e-5


@pytest.mark.slow
def test_output_and_every_gradient_are_the_references():
  x, t, cond, probe = inputs("clip")

  def loss(params):
    out = REFERENCE.network(params)(x, t, cond)
    return (out * probe).sum(), out

  (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(reference_params())
  assert relative_error(out, STORED["clip output"]) < 1e-5
  shapes = reference_shapes()
  directions = from_reference(REFERENCE, lambda n: golden.draw(f"{n} probe", shapes[n]))
  names = {path: name for path, (name, _) in svd.names(REFERENCE.config).items()}
  norm = dict(zip(STORED["names"].tolist(), STORED["norms"]))
  along = dict(zip(STORED["names"].tolist(), STORED["along"]))
  probes = by_path(directions)
  for path, g in by_path(grads).items():
    g, name = np.asarray(g, np.float64), names[path]
    assert abs(np.linalg.norm(g) - norm[name]) < 1e-4 * norm[name], path
    assert abs(np.vdot(g, probes[path]) - along[name]) < 1e-3 * norm[name], path


# --- the published recipe, in terms of ours ---------------------------------------------------


def euler(network, noise, sigmas):
  """Stable Video Diffusion's sampler in its own terms: x0 = c_skip x + c_out F (arXiv:2311.15127,
  appendix D.1; diffusers' EulerDiscreteScheduler), from sqrt(sigma_max^2 + 1) times the noise."""
  x = np.sqrt(sigmas[0] ** 2 + 1) * noise
  for s, after in zip(sigmas, [*sigmas[1:], 0.0]):
    output = network(x / np.sqrt(s**2 + 1), np.log(s) / 4)
    x0 = x / (s**2 + 1) - s / np.sqrt(s**2 + 1) * output
    x = x + (after - s) * (x - x0) / s
  return x


def test_v_under_the_cosine_process_is_the_published_preconditioning_and_sampler():
  denoiser = Denoiser("v", make_process("cosine"), sigma_data=1.0, time_unit="edm")
  sampler = Sampler(steps=25, grid="karras", sigma_max=700.0, start="unit")
  noise = clip((1, 2, 4, 4, 4))
  network = lambda x, t, cond, key=None: jnp.tanh(2 * x) * jnp.cos(t)[..., None, None, None]
  denoise = lambda x, t: denoiser(network, x, t, None)
  got = sample(denoise, denoiser.process, noise, None, sampler)
  roots = np.linspace(700.0 ** (1 / 7), 0.002 ** (1 / 7), 25)
  want = euler(lambda x, t: np.tanh(2 * x) * np.cos(t), np.asarray(noise, np.float64), roots**7)
  np.testing.assert_allclose(got, want, atol=2e-4)


def test_v_is_the_published_output_at_every_level():
  denoiser, s = Denoiser("v", make_process("cosine")), np.array([0.002, 0.1, 1.0, 20.0, 700.0])
  t = denoiser.process.t_from_log_snr(-2 * np.log(s))[:, None]
  x0, noise = clip((5, 2, 4, 4, 4)), clip((5, 2, 4, 4, 4), 1)
  s = s.reshape(-1, 1, 1, 1, 1)
  skip, out = 1 / (s**2 + 1), -s / np.sqrt(s**2 + 1)
  want = (x0 - skip * (x0 + s * noise)) / out
  np.testing.assert_allclose(denoiser.target(x0, noise, t), want, atol=5e-4)


# --- behaviour --------------------------------------------------------------------------------

SMALL = dict(width=16, head_dim=8, groups=4, multipliers=(1,))
SHAPE = (2, 3, 4, 6, 4)
T = jnp.array([[-0.5], [1.2]])


def clip(shape=SHAPE, seed=0):
  return draw(shape, seed)


def condition(b, frames=3, height=4, width=6):
  return Cond(
    image=clip((b, 2, golden.IMAGE), 1), image_mask=jnp.ones((b, 2), bool),
    scalars={name: jnp.linspace(1.0 + i, 9.0, b) for i, name in enumerate(golden.SCALARS)},
    volumes=dict(first=clip((b, frames, height, width, 4), 2)),
  )  # fmt: skip


def test_frames_of_a_clip_are_images_where_nothing_goes_along_time():
  model = spec(**SMALL)
  within = lambda path, leaf: leaf + 100 * (path[-1].key == "factor")
  params = jax.tree_util.tree_map_with_path(within, filled(model.abstract_params))
  network = jax.jit(model.network(params))
  images = clip().reshape(6, 1, *SHAPE[2:])
  want = network(images, jnp.repeat(T, 3, axis=0), Cond()).reshape(SHAPE)
  np.testing.assert_allclose(network(clip(), T, Cond()), want, atol=1e-5)
  along = jax.jit(model.network(filled(model.abstract_params)))
  assert jnp.abs(along(clip(), T, Cond()) - want).max() > 1e-3


def test_each_condition_says_something_and_dropped_nothing():
  model = spec(**CONDITIONS, **SMALL)
  network = jax.jit(model.network(filled(model.abstract_params, 0.3)))
  run = lambda cond: network(clip(), T, cond)
  cond = condition(2)
  others = {
    "image": dataclasses.replace(cond, image=jnp.flip(cond.image, 1) + 1),
    "scalars": dataclasses.replace(cond, scalars={k: v + 3 for k, v in cond.scalars.items()}),
    "volumes": dataclasses.replace(cond, volumes=dict(first=cond.volumes["first"] + 1)),
  }
  given = run(cond)
  for name, other in others.items():
    dropped = run(drop(cond, (name,)))
    np.testing.assert_array_equal(dropped, run(drop(other, (name,))))
    assert jnp.abs(given - run(other)).max() > 1e-3 and jnp.abs(given - dropped).max() > 1e-3
  for name, value in cond.scalars.items():
    gone = dataclasses.replace(cond, scalars=cond.scalars | {name: value * jnp.nan})
    assert jnp.abs(given - run(gone)).max() > 1e-4


def test_without_image_and_text_there_is_no_cross_attention():
  cross = lambda model: any("/cross/" in path for path in model.info)
  assert not cross(spec()) and cross(spec(text=16)) and cross(REFERENCE)


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(width=72), "width=72 is not divisible by head_dim=16"),
    (dict(image=16, text=16), "can attend to only one of them"),
    (dict(multipliers=()), "one per level"),
    (dict(kernel="fast"), "no attention kernel 'fast'"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    spec(**changes)


# --- counts -----------------------------------------------------------------------------------


def test_the_published_size_has_the_published_parameters():
  model = ModelSpec("svd", svd.Config(**svd.SIZES["1.5B"], **svd.PUBLISHED))
  assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == 1_524_623_082
  assert set(model.info) == set(svd.names(model.config))


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (CONDITIONS, (3, 8, 12, 4), 1),
    (dict(known="last", blocks=2), (4, 7, 6, 4), 4),
    (dict(text=16, multipliers=(1,)), (3, 4, 4, 4), 1),
    (CONDITIONS, (1, 4, 4, 4), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=2)


ROLES = {
  "conv_in/kernel": "input", "conv_out/kernel": "output", "conv_out/bias": "vector",
  "time/hidden/kernel": "hidden", "scalars/hidden/kernel": "input", "scalars/out/kernel": "hidden",
  "down/0/blocks/0/resnet/conv1/kernel": "hidden", "down/0/blocks/0/blend/factor": "vector",
  "down/0/blocks/0/temporal/conv2/kernel": "hidden", "down/0/sampler/kernel": "hidden",
  "down/0/blocks/0/attention/space/cross/k/kernel": "input",
  "down/0/blocks/0/attention/along/block/cross/q/kernel": "hidden",
  "down/0/blocks/0/attention/along/ff_in/up/kernel": "hidden",
  "down/0/blocks/0/attention/frame/hidden/kernel": "hidden",
}  # fmt: skip


def test_mup_tells_inputs_outputs_and_hidden_parameters_apart():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  wide = REFERENCE.wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES


SPLIT, TENSOR = dict(data=2, fsdp=2, seq=2), dict(data=1, fsdp=2, seq=2, tensor=2)
