"""Layers, encoders, decoders and latent priors."""
