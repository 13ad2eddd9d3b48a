"""The suite checks the hints of every call, shapes included (conftest.py)."""

import jax.numpy as jnp
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from videojax.io import files
from videojax.models import unet_layers


def test_an_argument_of_another_type_is_refused():
  with pytest.raises(BeartypeCallHintParamViolation):
    files.write_json("a string, not a path", {})


def test_an_array_of_another_shape_is_refused():
  with pytest.raises(TypeCheckError):
    unet_layers.double(jnp.zeros((2, 3, 4)), 8, 8)  # not [B,T,H,W,C]
