"""Networks: builders that return plain Keras models for the channels of a layout."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "cnn": "convolutional",
    "mlp": "perceptron",
    "Pad": "padding",
    "BUILDERS": "builders",
    "build": "builders",
    "Bilinear": "tendency",
    "bilinear_tendency": "tendency",
    "brajard_cnn": "tendency",
    "lstm": "recurrent",
    "gru": "recurrent",
    "ConvLSTM": "memory",
    "convlstm": "memory",
    "autoencoder": "autoencoding",
    "LatentNormal": "variational",
    "InputNoise": "variational",
    "kl_divergence": "variational",
    "critic": "gan",
    "WGAN": "gan",
    "gradient_penalty": "gan",
}
__all__ = sorted(_HOMES)


def register_layers() -> None:
    """Import every module of this room, so that the layers of saved models are known by name."""
    from importlib import import_module

    for module in {*_HOMES.values()}:
        import_module(f"physml.networks.{module}")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.networks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.networks' has no attribute {name!r}")
