"""The method as pictures, by Pillow and matplotlib. Knows neither torch nor diffusers."""
