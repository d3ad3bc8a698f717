package org.edgehadanorm.core;

/** What a generation does at the moment, in the order in which it does it. */
public enum Phase {
    /** Loads and runs the image encoder; left out where nothing has to be encoded. */
    ENCODE_PICTURE,
    /** Loads and runs the text encoders; left out where the bundle has none. */
    ENCODE,
    /** Loads the denoiser and gives it the prompt, and the negative one where it is used. */
    PREPARE,
    /** The steps. */
    DENOISE,
    /** Loads and runs the image decoder; left out where latents are pixels. */
    DECODE
}
