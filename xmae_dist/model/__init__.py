"""Models: XMAE and its controls, as published and corrected; masks, presets and bundles.

`XMAE` is the entry: ``XMAE.from_published(state, heads=H)``, ``XMAE.load(bundle_url)``; ``presets.build(name)``.
"""

from xmae_dist.model import presets
from xmae_dist.model.xmae import XMAE, XMAEConfig

__all__ = ["XMAE", "XMAEConfig", "presets"]
