"""Every intermediate sample of diffusers' schedulers, for tests/diffusion/test_schedulers.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python tests/golden/make_schedulers.py

Writes schedulers.npz beside itself: `noise` and `mix`, then for each scheduler `<name>_told`, what
the model is told at each of the 8 steps, and `<name>`, x before each step and after the last.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch

STEPS = 8
TRAINED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SCHEDULERS = {
  # stable-video-diffusion-img2vid
  "euler": diffusers.EulerDiscreteScheduler(
    **TRAINED, prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002,
    sigma_max=700.0, timestep_type="continuous", timestep_spacing="leading", steps_offset=1,
  ),
  # text-to-video-ms-1.7b, and VideoCrafter's own sampler
  "ddim": diffusers.DDIMScheduler(
    **TRAINED, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    timestep_spacing="leading",
  ),
  "dpm_solver": diffusers.DPMSolverMultistepScheduler(
    **TRAINED, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
    timestep_spacing="linspace",
  ),
  "unipc": diffusers.UniPCMultistepScheduler(
    **TRAINED, solver_order=2, solver_type="bh2", timestep_spacing="linspace"
  ),
  "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}  # fmt: skip


def model(x: np.ndarray, told: float, mix: np.ndarray) -> np.ndarray:
  return x @ mix + 0.5 * np.tanh(x) + np.float32(told / (10 + abs(told)))


def trajectory(name: str, noise: np.ndarray, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(told [N], x [N+1, B, T, H, W, C])."""
  scheduler = SCHEDULERS[name]
  if name == "flow":  # the even times that video pipelines pass; by itself it ends at .003
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, STEPS + 1)[:-1])
  else:
    scheduler.set_timesteps(STEPS)
  xs = [torch.from_numpy(noise) * getattr(scheduler, "init_noise_sigma", 1.0)]
  for told in scheduler.timesteps:
    x = xs[-1]
    seen = x if name == "flow" else scheduler.scale_model_input(x, told)
    output = torch.from_numpy(model(seen.numpy(), float(told), mix))
    xs.append(scheduler.step(output, told, x).prev_sample)
  return scheduler.timesteps.numpy().astype(np.float32), torch.stack(xs).numpy()


def main() -> None:
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((1, 2, 4, 4, 3)).astype(np.float32)
  mix = (0.4 * np.eye(3) + 0.1 * rng.standard_normal((3, 3))).astype(np.float32)
  out = {"noise": noise, "mix": mix}
  for name in SCHEDULERS:
    out[f"{name}_told"], out[name] = trajectory(name, noise, mix)
    print(name, out[f"{name}_told"], out[name].std(axis=(1, 2, 3, 4, 5)), out[name].dtype)
  np.savez_compressed(Path(__file__).with_name("schedulers.npz"), **out)


if __name__ == "__main__":
  main()
