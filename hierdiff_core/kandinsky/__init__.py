"""Kandinsky 2.2 through diffusers."""
