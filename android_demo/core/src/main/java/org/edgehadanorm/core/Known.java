package org.edgehadanorm.core;

import java.util.Optional;

/** Latents [n] of a picture to begin with. mask: 1 where it is drawn anew, 0 where it is kept; nothing: all anew. */
final strictfp class Known {
    private final float[] latents;
    private final Optional<float[]> mask;

    /** mask: of one channel, whose size n is a multiple of. */
    Known(float[] latents, Optional<float[]> mask) {
        this.latents = latents;
        this.mask = mask;
    }

    boolean isMasked() {
        return mask.isPresent();
    }

    /** The picture under noise, at these scales of both. */
    float[] noised(float[] scales, float[] noise) {
        float[] values = new float[latents.length];
        for (int i = 0; i < values.length; i++) {
            float picture = scales[0] * latents[i];
            float product = scales[1] * noise[i];
            values[i] = picture + product;
        }
        return values;
    }

    /** Puts the picture under noise where the mask, which is there, keeps it. */
    void keep(float[] drawn, float[] scales, float[] noise) {
        float[] weights = mask.get();
        float[] noised = noised(scales, noise);
        for (int i = 0; i < drawn.length; i++) {
            float weight = weights[i % weights.length];
            float kept = (1 - weight) * noised[i];
            float anew = weight * drawn[i];
            drawn[i] = kept + anew;
        }
    }
}
