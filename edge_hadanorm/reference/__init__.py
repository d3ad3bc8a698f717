"""The embedded model: pictures, training, figures, weights; the stress model. Nothing general imports it."""
