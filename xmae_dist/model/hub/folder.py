"""A folder that `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads where this package is not installed.

    config.json, model.safetensors, README.md
    configuration_xmae.py, modeling_xmae.py      the classes that the library looks for
    encoder.py, blocks.py, stem.py, …            what these import, as it is here

The sources are this package's own files with their imports made relative, so there is no second model to keep in step.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from xmae_dist.core.errors import ConfigError, IntegrityError
from xmae_dist.model.encoder import SignalEncoder
from xmae_dist.model.exported import TOLERANCE
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.readout import HEAD
from xmae_dist.model.xmae import XMAEConfig, encoder_sizes

SOURCES = (
    *("model.hub.configuration_xmae", "model.hub.modeling_xmae", "model.encoder", "model.blocks", "model.stem"),
    *("model.patch", "model.readout", "core.errors"),
)
_IMPORT = re.compile(r"^from xmae_dist\.[a-z_.]+?\.?([a-z_]+) import ", re.MULTILINE)


def folder_files(model: PretrainModel, about: Mapping[str, Any]) -> dict[str, bytes]:
    """The folder's files by name. `about` is plain JSON values: bundle id, signal, window specification.

    Raises ConfigError for a model whose embedding is not its encoder's tokens read out (`published`), and where
    transformers is not installed; IntegrityError where what the library loads embeds random windows otherwise than the
    model by more than 1e-4.
    """
    encoder = getattr(model, "encoders", {model.embeds: None})[model.embeds]
    if not isinstance(encoder, SignalEncoder) or not isinstance(model.config, XMAEConfig) or model.readout is HEAD:
        raise ConfigError(
            "model", value=type(model).__name__, expected="an encoder with a readout", fix="use encoder.onnx instead"
        )
    config = {
        "model_type": "xmae-encoder",
        "architectures": ["XMAEEncoderModel"],
        "auto_map": {
            "AutoConfig": "configuration_xmae.XMAEEncoderConfig",
            "AutoModel": "modeling_xmae.XMAEEncoderModel",
        },
        "encoder": encoder_sizes(model.config, model.embeds),
        "readout": model.readout.name,
        "about": dict(about),
    }
    weights = {f"encoder.{name}": value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    files = {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save_tensors(weights, {"format": "pt"}),
        "README.md": _card(model, about).encode(),
        **{f"{name.rpartition('.')[2]}.py": _source(name).encode() for name in SOURCES},
    }
    _check(files, model)
    return files


def _card(model: PretrainModel, about: Mapping[str, Any]) -> str:
    windows = "\n".join(f"- {key}: {value}" for key, value in about.get("window_spec", {}).items()) or "- not stated"
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
---
# xMAE encoder of bundle {about.get("bundle_id", "not stated")}

Windows of {model.embeds.upper()}, {model.config.length} samples each, to {model.embedding_width} numbers (readout
`{model.readout.name}`). Windows must be prepared as in pretraining; a missing sample is NaN.

{windows}

```python
from transformers import AutoModel
model = AutoModel.from_pretrained("THIS_FOLDER", trust_remote_code=True).eval()
embedding_BE = model(signal_BL).pooler_output
```
Research use. Not a medical device; not validated for any diagnosis.
"""


def _source(name: str) -> str:
    """A module's text with imports of this package made imports of its neighbours."""
    package, _, module = f"xmae_dist.{name}".rpartition(".")
    text = (resources.files(package) / f"{module}.py").read_text()
    return _IMPORT.sub(r"from .\1 import ", text)


def _check(files: Mapping[str, bytes], model: PretrainModel) -> None:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ConfigError(
            "transformers",
            value=f"no module {error.name}",
            expected="it to be installed, because the exported folder is tested",
            fix="pip install 'xmae_dist[transformers]'",
        ) from error
    config = model.config
    channels = getattr(config, f"{model.embeds}_channels", 1)
    windows = torch.randn(3, channels, config.length, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="xmae_encoder_") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        loaded = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        worst = float((loaded(windows).pooler_output - model.eval().embed(windows)).abs().max())
    if not worst <= TOLERANCE:
        raise IntegrityError("exported folder", value=f"a difference of {worst:g}", expected=f"at most {TOLERANCE:g}")
