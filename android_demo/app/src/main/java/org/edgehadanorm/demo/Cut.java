package org.edgehadanorm.demo;

/** How a picture file is turned as its note says, and cut to the proportions of a size around its centre: numbers. */
final class Cut {
    /** Pixels of a file that are in memory at most, 4 bytes each. */
    private static final long MOST_PIXELS = 1 << 23;
    /** What an orientation of Exif, from 1, does to (x, y): {x of x, x of y, y of x, y of y}. */
    private static final int[][] TURNS = {{1, 0, 0, 1}, {-1, 0, 0, 1}, {-1, 0, 0, -1}, {1, 0, 0, -1},
        {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, -1, 0}, {0, 1, -1, 0}};

    private final int[] turn;
    private final int width;
    private final int height;

    /** orientation: of Exif, 1 to 8; what is none of them turns nothing. width, height: of the size to cut to. */
    Cut(int orientation, int width, int height) {
        this.turn = TURNS[orientation >= 1 && orientation <= TURNS.length ? orientation - 1 : 0];
        this.width = width;
        this.height = height;
    }

    /**
     * How many pixels of a file, in either direction, are read as one: as many as leave the size covered, and more
     * where what is left would take too much memory. A power of 2, as BitmapFactory takes it.
     */
    int sample(int fileWidth, int fileHeight) {
        int sample = 1;
        while (covers(fileWidth / (2 * sample), fileHeight / (2 * sample))
                || (long) (fileWidth / sample) * (fileHeight / sample) > MOST_PIXELS) {
            sample *= 2;
        }
        return sample;
    }

    /** The values of the android.graphics.Matrix that puts what was read into the size. */
    float[] matrix(int readWidth, int readHeight) {
        double scale = Math.max((double) width / across(readWidth, readHeight),
                (double) height / across(readHeight, readWidth));
        double[] turned = new double[turn.length];
        for (int i = 0; i < turned.length; i++) {
            turned[i] = scale * turn[i];
        }
        double left = (width - turned[0] * readWidth - turned[1] * readHeight) / 2;
        double top = (height - turned[2] * readWidth - turned[3] * readHeight) / 2;
        return new float[] {(float) turned[0], (float) turned[1], (float) left, (float) turned[2], (float) turned[3],
            (float) top, 0, 0, 1};
    }

    private boolean covers(int readWidth, int readHeight) {
        return across(readWidth, readHeight) >= width && across(readHeight, readWidth) >= height;
    }

    /** The first, or the other where the picture is laid on its side. */
    private int across(int one, int other) {
        return turn[0] != 0 ? one : other;
    }
}
