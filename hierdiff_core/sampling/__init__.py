"""The paper's Algorithm 1 on latents. torch, no diffusers."""
