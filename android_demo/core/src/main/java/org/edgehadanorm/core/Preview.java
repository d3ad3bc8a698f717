package org.edgehadanorm.core;

import java.util.Arrays;

/** What latents look like before they are done. */
final class Preview {
    private Preview() {
    }

    /**
     * A picture [height, width] of latents [channels, height, width]: of pixels as they are, of others the first three
     * channels (or the first, in grey), each stretched over its range.
     */
    static Picture of(float[] latents, int channels, int height, int width, boolean pixels) {
        if (pixels) {
            return Picture.of(latents, channels, height, width);
        }
        int shown = channels < 3 ? 1 : 3;
        int plane = height * width;
        float[] stretched = new float[shown * plane];
        for (int channel = 0; channel < shown; channel++) {
            stretch(Arrays.copyOfRange(latents, channel * plane, (channel + 1) * plane), stretched, channel * plane);
        }
        return Picture.of(stretched, shown, height, width);
    }

    private static void stretch(float[] values, float[] into, int at) {
        float low = Float.POSITIVE_INFINITY;
        float high = Float.NEGATIVE_INFINITY;
        for (float value : values) {
            low = Math.min(low, value);
            high = Math.max(high, value);
        }
        float range = high > low ? high - low : 1;
        for (int i = 0; i < values.length; i++) {
            into[at + i] = 2 * ((values[i] - low) / range) - 1;
        }
    }
}
