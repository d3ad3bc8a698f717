"""What stands around a transformer: loading, text encoders, decoder, sampling, noise, drawing."""
