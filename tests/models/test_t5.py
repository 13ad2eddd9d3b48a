from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.golden import make_t5 as golden
from tests.helpers import count_jaxpr, filled, relative_error
from videojax.errors import ConfigError
from videojax.models import t5
from videojax.runs import weights
from videojax.scaling import flops
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings
from videojax.specs import ModelSpec

CASES = pytest.mark.parametrize("variant,layout", golden.CASES)
STORED = np.load(Path(golden.__file__).with_name("t5.npz"))


def spec(variant, **changes):
  sizes = dict(golden.SIZES, positions=golden.POSITIONS[variant])
  return ModelSpec("t5", t5.Config(**{**sizes, **changes}))


SPECS = {variant: spec(variant) for variant in golden.POSITIONS}
encode = jax.jit(lambda model, params, *args: model.network(params)(*args), static_argnums=0)


# --- the references ---------------------------------------------------------------------------


class Reference:
  """One of the encoders with its names, as stored."""

  def __init__(self, variant, layout):
    self.stored = lambda what: STORED[f"{variant} {layout} {what}"]
    self.spec, self.names = SPECS[variant], t5.names(SPECS[variant].config, layout)
    shapes = (tuple(int(n) for n in s.strip("(),").split(",")) for s in self.stored("shapes"))
    self.shapes = dict(zip(self.stored("names").tolist(), shapes))

  def ours(self, value):
    """Our parameters, each from `value(name in the reference, its shape there)`."""

    def one(path, leaf):
      name, layout = self.names["/".join(key.key for key in path)]
      there = value(name, self.shapes[name])
      return jnp.asarray(weights.from_torch(there, layout, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, self.spec.abstract_params)


def inputs(case):
  v = golden.inputs(case)
  return v["tokens"], v["mask"], jnp.asarray(v["probe"], jnp.float32)


@CASES
def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape(variant, layout):
  reference = Reference(variant, layout)
  ours, info = by_path(reference.spec.abstract_params), reference.spec.info
  there = {
    name: weights.there(kind, ours[path].shape, info[path].inputs)
    for path, (name, kind) in reference.names.items()
  }
  assert len(there) == len(ours) and there == reference.shapes


@CASES
def test_short_captions_are_encoded_as_the_reference_does(variant, layout):
  reference, (tokens, mask, _) = Reference(variant, layout), inputs("short")
  got = encode(reference.spec, reference.ours(golden.weight), tokens, mask)
  assert got.dtype == jnp.float32
  assert relative_error(got, reference.stored("short")) < 5e-6


@CASES
def test_a_long_caption_and_every_gradient_are_the_references(variant, layout):
  reference, (tokens, mask, probe) = Reference(variant, layout), inputs("far")

  def loss(params):
    out = reference.spec.network(params)(jnp.asarray(tokens), jnp.asarray(mask))
    return (out * probe).sum(), out

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(reference.ours(golden.weight))
  assert relative_error(got[:, :: golden.EVERY["far"]], reference.stored("far")) < 5e-6
  probes = by_path(reference.ours(lambda name, shape: golden.draw(f"{name} probe", shape)))
  norm = dict(zip(reference.stored("names").tolist(), reference.stored("norms")))
  along = dict(zip(reference.stored("names").tolist(), reference.stored("along")))
  for path, g in by_path(grads).items():
    g, name = np.asarray(g, np.float64), reference.names[path][0]
    assert abs(np.linalg.norm(g) - norm[name]) < 1e-5 * norm[name], path
    assert abs(np.vdot(g, probes[path]) - along[name]) < 1e-4 * norm[name], path


@CASES
def test_the_published_sizes_have_the_published_parameters_and_names(variant, layout):
  config = t5.Config(**t5.SIZES[f"{variant}_xxl"])
  count = sum(leaf.size for leaf in jax.tree.leaves(ModelSpec("t5", config).abstract_params))
  assert count == {"t5": 4_762_310_656, "umt5": 5_680_910_336}[variant]
  assert count == STORED[f"{variant} {layout} xxl count"]
  named = [name for name, _ in t5.names(config, layout).values()]
  assert golden.digest(named) == str(STORED[f"{variant} {layout} xxl digest"])


# --- what an encoder promises -----------------------------------------------------------------


def test_distances_share_buckets_as_in_the_paper():
  distance = np.arange(300)
  after, before = t5.buckets(distance), t5.buckets(-distance)
  begins = np.flatnonzero(np.diff(after)) + 1
  np.testing.assert_array_equal(begins, [*range(1, 9), 12, 16, 23, 32, 46, 64, 91])
  assert after[0] == before[0] == 0 and after[1] == 17 and after[-1] == 31
  np.testing.assert_array_equal(before[1:], after[1:] - 16)


@pytest.mark.parametrize("variant", SPECS)
def test_padding_changes_no_other_token(variant):
  model, (tokens, mask, _) = SPECS[variant], inputs("short")
  params = filled(model.abstract_params, 0.5)
  want = encode(model, params, tokens, mask)
  junk = np.where(mask, tokens, (tokens + 7) % model.config.vocab)
  np.testing.assert_array_equal(encode(model, params, junk, mask)[mask], want[mask])
  longer = [np.pad(x, ((0, 0), (0, 5))) for x in (junk, mask)]
  np.testing.assert_allclose(encode(model, params, *longer)[:, :9][mask], want[mask], atol=1e-5)
  told = encode(model, params, tokens, np.ones_like(mask))
  assert jnp.abs(told - want)[1:].max() > 0.1  # it would without the mask


def test_a_caption_without_any_token_is_finite():
  model = SPECS["umt5"]
  tokens, mask = np.zeros((1, 4), np.int32), np.zeros((1, 4), bool)
  assert jnp.isfinite(encode(model, filled(model.abstract_params), tokens, mask)).all()


def test_bfloat16_is_close_to_float32_also_where_parameters_are_stored_in_it():
  (tokens, mask, _), half = inputs("far"), spec("umt5", dtype="bfloat16")
  params = Reference("umt5", "diffusers").ours(golden.weight)
  want = encode(SPECS["umt5"], params, tokens, mask)
  stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  for given in (params, stored):
    got = encode(half, given, tokens, mask)
    assert got.dtype == jnp.float32 and 1e-4 < relative_error(got, want) < 4e-2


def test_other_settings_are_refused_in_words():
  with pytest.raises(ValueError, match="no dtype 'float16'"):
    spec("t5", dtype="float16")
  with pytest.raises(ValueError, match="no positions 'all'.*every, first"):
    spec("t5", positions="all")


def test_random_weights_give_embeddings_of_variance_one():
  config = t5.Config(**t5.SIZES["nano"])
  model, (tokens, mask, _) = ModelSpec("t5", config), inputs("short")
  out = encode(model, model.init(jax.random.key(0)), tokens, mask)
  assert 0.9 < out.std() < 1.1


def test_traced_flops_are_those_of_the_jaxpr():
  model, (tokens, mask, _) = SPECS["umt5"], inputs("short")
  run = lambda p, *args: model.network(p)(*args)
  count = count_jaxpr(jax.make_jaxpr(run)(model.abstract_params, tokens, mask).jaxpr)
  traced = flops.trace(run, model.abstract_params, tokens, mask)
  assert count == flops.forward(traced)["total"] > 0


# --- files and meshes -------------------------------------------------------------------------


def placed(model, mesh=None):
  """Shapes with shardings."""
  mesh = mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1])
  axes = {path: info.axes for path, info in model.info.items()}
  shardings = param_shardings(model.abstract_params, axes, mesh)
  with_sharding = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return by_path(jax.tree.map(with_sharding, model.abstract_params, shardings))


def load(path, model):
  return weights.load(path, t5, model.config, model.info, placed(model))


@CASES
def test_a_file_in_either_layout_is_loaded(tmp_path, variant, layout):
  reference = Reference(variant, layout)
  tensors = {n: golden.weight(n, s).astype(np.float32) for n, s in reference.shapes.items()}
  save_file(tensors, tmp_path / "encoder.safetensors")
  got = load(tmp_path / "encoder.safetensors", reference.spec)
  want = by_path(reference.ours(golden.weight))
  assert got.keys() == want.keys()
  for path in want:
    np.testing.assert_array_equal(got[path], want[path], err_msg=path)


@pytest.mark.parametrize("shard_bytes", [weights.SHARD_BYTES, 20_000])
def test_what_was_written_is_read_back_equal(tmp_path, shard_bytes):
  model, params = SPECS["t5"], by_path(filled(SPECS["t5"].abstract_params))
  files = weights.save(tmp_path, t5, model.config, model.info, params, shard_bytes)
  assert (len(files) > 1) == (shard_bytes == 20_000)
  got = load(tmp_path, model)
  for path, value in params.items():
    np.testing.assert_array_equal(got[path], value, err_msg=path)


def test_table_of_tokens_may_be_there_twice_only_if_both_are_equal(tmp_path):
  model, file = SPECS["umt5"], tmp_path / "diffusion_pytorch_model.safetensors"
  params = by_path(filled(model.abstract_params))
  weights.save(tmp_path, t5, model.config, model.info, params)
  tensors = load_file(file)
  both = dict(tensors, **{"encoder.embed_tokens.weight": tensors["shared.weight"]})
  save_file(dict(both, **{"lm_head.weight": tensors["shared.weight"]}), file)
  np.testing.assert_array_equal(load(tmp_path, model)["table"], params["table"])
  save_file(dict(both, **{"encoder.embed_tokens.weight": 0 * tensors["shared.weight"]}), file)
  with pytest.raises(ConfigError, match="embed_tokens.weight and shared.weight of .*differ"):
    load(tmp_path, model)
  del both["shared.weight"]
  save_file(both, file)
  with pytest.raises(ConfigError, match="missing: shared.weight; extra: encoder.embed_tokens"):
    load(tmp_path, model)


@pytest.mark.parametrize("variant", SPECS)
@pytest.mark.parametrize("sizes", [dict(fsdp=8), dict(fsdp=4, tensor=2)])
def test_a_device_holds_its_share_of_the_published_sizes(variant, sizes):
  mesh = make_mesh(MeshConfig(**sizes))
  model = ModelSpec("t5", t5.Config(**t5.SIZES[f"{variant}_xxl"]))
  leaves = placed(model, mesh)
  held = sum(np.prod(x.sharding.shard_shape(x.shape)) for x in leaves.values())
  table = leaves["table"].size * (1 / sizes["fsdp"] - 1 / 8)  # `tensor` does not shard it
  whole = sum(x.size for x in leaves.values())
  assert 0 <= held - table - whole / 8 < 1e-3 * whole / 8


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [dict(data=2, fsdp=2, tensor=2), dict(fsdp=4, seq=2, data=1)])
def test_mesh_does_not_show_in_embeddings(sizes):
  model, (tokens, mask, _) = spec("umt5", width=32, head_dim=8), inputs("far")
  tokens, mask = (np.concatenate([x, x[::-1]]) for x in (tokens, mask))
  params = filled(model.abstract_params, 0.3)
  want = encode(model, params, tokens, mask)
  mesh = make_mesh(MeshConfig(**sizes))
  with jax.set_mesh(mesh):
    axes = {path: info.axes for path, info in model.info.items()}
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    given = jax.device_put(params, param_shardings(params, axes, mesh))
    got = encode(model, given, *jax.device_put((tokens, mask), rows))
  assert relative_error(jax.device_get(got), jax.device_get(want)) < 1e-5
