"""Networks: builders that return plain Keras models for the channels of a layout."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "cnn": "convolutional",
    "mlp": "perceptron",
    "resnet": "residual",
    "unet": "multiscale",
    "Pad": "padding",
    "PartialConv": "partial",
    "Valid": "partial",
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
    "critic": "critics",
    "WGAN": "gan",
    "gradient_penalty": "critics",
}
_LAYERS = ("padding", "partial", "sampling", "whole", "tendency", "sequences", "memory", "variational")
"""Modules with layers of their own."""
__all__ = sorted(_HOMES)


def register() -> None:
    """Import all layers, so that Keras knows them by name in saved models."""
    from importlib import import_module

    for module in _LAYERS:
        import_module(f"physml.networks.{module}")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.networks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.networks' has no attribute {name!r}")
