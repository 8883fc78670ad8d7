"""Complete runs as typed values, named for the hardware they are made for; every field can be overridden."""

from xmae_dist.recipes.pretraining import RECIPES, recipe

__all__ = ["RECIPES", "recipe"]
