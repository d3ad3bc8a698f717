package org.edgehadanorm.core;

import java.util.Optional;

/** The picture that another begins with, and a mask of the same size: white is drawn anew, black is kept. */
public final class Original {
    private final Picture picture;
    private final Optional<Picture> mask;

    /** mask: nothing where all is drawn anew. */
    public Original(Picture picture, Optional<Picture> mask) {
        this.picture = picture;
        this.mask = mask;
    }

    /** The same picture with another mask. */
    public Original masked(Optional<Picture> other) {
        return new Original(picture, other);
    }

    public Picture picture() {
        return picture;
    }

    public Optional<Picture> mask() {
        return mask;
    }

    /** The mask of latents [height, width]: 1 or 0, that of the first pixel of those that each stands for. */
    Optional<float[]> maskOf(int height, int width) {
        return mask.map(pixels -> {
            int down = pixels.height() / height;
            int across = pixels.width() / width;
            float[] values = new float[height * width];
            for (int i = 0; i < values.length; i++) {
                values[i] = pixels.isLight(i % width * across, i / width * down) ? 1 : 0;
            }
            return values;
        });
    }
}
