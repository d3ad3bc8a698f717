package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;

/**
 * What a decoder makes of latents, or an encoder of a picture, by square tiles, which overlap by a quarter of their
 * side. Where they overlap they are mixed by weights that fall linearly towards their edges, in float32 as
 * pipelines/tiles.py does it.
 */
final strictfp class Tiles {
    private static final double OVERLAP = 0.25;

    private final int side;
    private final int grain;
    private final int channels;
    private final int height;
    private final int width;

    /**
     * Of values [channels, height, width] by tiles of this side. grain: side and where tiles begin are multiples of it,
     * for one value of the result may stand for so many.
     */
    Tiles(int side, int grain, int channels, int height, int width) {
        this.side = side;
        this.grain = grain;
        this.channels = channels;
        this.height = height;
        this.width = width;
    }

    /** A tile [1, C, side, side] to what is made of it, [1, c, made, made]. */
    interface Coder {
        Tensor code(Tensor tile) throws RunnerException, Cancelled;
    }

    /** What is made of values [C, height, width]: float32 [1, c, height * made / side, width * made / side]. */
    Tensor coded(float[] values, Coder coder) throws RunnerException, Cancelled {
        Canvas canvas = null;
        for (int row : starts(height)) {
            for (int column : starts(width)) {
                Tensor tile = coder.code(cut(values, row, column));
                int planes = (int) tile.shape()[1];
                int made = (int) tile.shape()[3];
                if (canvas == null) {
                    canvas = new Canvas(planes, height * made / side, width * made / side);
                }
                canvas.add(tile.floats(), ramp(made), row * made / side, column * made / side);
            }
        }
        return canvas.mixed();
    }

    private Tensor cut(float[] values, int row, int column) {
        int tall = Math.min(side, height - row);
        int wide = Math.min(side, width - column);
        float[] tile = new float[channels * tall * wide];
        for (int line = 0; line < channels * tall; line++) {
            int from = (line / tall * height + row + line % tall) * width + column;
            System.arraycopy(values, from, tile, line * wide, wide);
        }
        return Tensor.of(tile, 1, channels, tall, wide);
    }

    /** Where tiles begin so that they cover `size`, the last one flush with its end. */
    private List<Integer> starts(int size) {
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

        /** A tile [planes, ramp.length, ramp.length] at a place. */
        void add(float[] tile, float[] ramp, int top, int left) {
            for (int y = 0; y < ramp.length; y++) {
                for (int x = 0; x < ramp.length; x++) {
                    float weight = ramp[y] * ramp[x];
                    int at = (top + y) * width + left + x;
                    weights[at] = weights[at] + weight;
                    for (int plane = 0; plane < planes; plane++) {
                        float product = tile[(plane * ramp.length + y) * ramp.length + x] * weight;
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
