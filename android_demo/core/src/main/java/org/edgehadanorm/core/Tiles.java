package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;

/**
 * What a decoder makes of latents, or an encoder of a picture, by tiles of a window, which overlap by a quarter of
 * their sides. Where they overlap they are mixed by weights that fall linearly towards their edges, in float32 as
 * pipelines/tiles.py does it. Where one tile is the whole, what is made of it is taken as it is.
 */
final strictfp class Tiles {
    private static final double OVERLAP = 0.25;

    private final int tall;
    private final int wide;
    private final int grain;
    private final int channels;
    private final int height;
    private final int width;

    /**
     * Of values [channels, height, width]. window: a tile's shape, [1, channels, h, w]. grain: h, w and where tiles
     * begin are multiples of it, for one value of the result may stand for so many.
     */
    Tiles(long[] window, int grain, int channels, int height, int width) {
        tall = (int) window[2];
        wide = (int) window[3];
        this.grain = grain;
        this.channels = channels;
        this.height = height;
        this.width = width;
    }

    /** A tile of the window to what is made of it, [1, c, made, made]. */
    interface Coder {
        Tensor code(Tensor tile) throws RunnerException, Cancelled;
    }

    /** What is made of values [C, height, width]: float32 [1, c, H, W], as much larger or smaller as a tile's is. */
    Tensor coded(float[] values, Coder coder) throws RunnerException, Cancelled {
        if (tall == height && wide == width) {
            return coder.code(Tensor.of(values, 1, channels, height, width));
        }
        Canvas canvas = null;
        for (int row : starts(height, tall)) {
            for (int column : starts(width, wide)) {
                Tensor tile = coder.code(cut(values, row, column));
                int planes = (int) tile.shape()[1];
                int madeTall = (int) tile.shape()[2];
                int madeWide = (int) tile.shape()[3];
                if (canvas == null) {
                    canvas = new Canvas(planes, height * madeTall / tall, width * madeWide / wide);
                }
                canvas.add(tile.floats(), ramp(madeTall), ramp(madeWide), row * madeTall / tall,
                        column * madeWide / wide);
            }
        }
        return canvas.mixed();
    }

    private Tensor cut(float[] values, int row, int column) {
        int lines = Math.min(tall, height - row);
        int length = Math.min(wide, width - column);
        float[] tile = new float[channels * lines * length];
        for (int line = 0; line < channels * lines; line++) {
            int from = (line / lines * height + row + line % lines) * width + column;
            System.arraycopy(values, from, tile, line * length, length);
        }
        return Tensor.of(tile, 1, channels, lines, length);
    }

    /** Where tiles of a side begin so that they cover `size`, the last one flush with its end. */
    private List<Integer> starts(int size, int side) {
        List<Integer> starts = new ArrayList<>();
        int last = size / grain - side / grain;
        int stride = Math.max(1, (int) (side / grain * (1 - OVERLAP)));
        for (int start = 0; start < last; start += stride) {
            starts.add(start * grain);
        }
        starts.add(Math.max(0, last) * grain);
        return starts;
    }

    private static float[] ramp(int length) {
        float most = (float) Math.max(1.0, OVERLAP * length);
        float[] ramp = new float[length];
        for (int i = 0; i < length; i++) {
            ramp[i] = Math.min(Math.min(i + 1, length - i), most);
        }
        return ramp;
    }

    /** Weighted sums of tiles, and of their weights. */
    private static final class Canvas {
        private final int planes;
        private final int height;
        private final int width;
        private final float[] sums;
        private final float[] weights;

        Canvas(int planes, int height, int width) {
            this.planes = planes;
            this.height = height;
            this.width = width;
            sums = new float[planes * height * width];
            weights = new float[height * width];
        }

        /** A tile [planes, rows.length, columns.length] at a place, weighted by its rows and columns. */
        void add(float[] tile, float[] rows, float[] columns, int top, int left) {
            for (int y = 0; y < rows.length; y++) {
                for (int x = 0; x < columns.length; x++) {
                    float weight = rows[y] * columns[x];
                    int at = (top + y) * width + left + x;
                    weights[at] = weights[at] + weight;
                    for (int plane = 0; plane < planes; plane++) {
                        float product = tile[(plane * rows.length + y) * columns.length + x] * weight;
                        sums[plane * weights.length + at] = sums[plane * weights.length + at] + product;
                    }
                }
            }
        }

        Tensor mixed() {
            for (int i = 0; i < sums.length; i++) {
                sums[i] = sums[i] / weights[i % weights.length];
            }
            return Tensor.of(sums, 1, planes, height, width);
        }
    }
}
