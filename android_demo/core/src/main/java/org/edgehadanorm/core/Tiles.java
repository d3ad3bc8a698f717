package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;

/**
 * The picture of latents by a decoder of square tiles, which overlap by a quarter of their side. Where they overlap
 * they are mixed by weights that fall linearly towards their edges, in float32 as pipelines/decoder.py does it.
 */
final strictfp class Tiles {
    private static final double OVERLAP = 0.25;

    private final int side;
    private final int channels;
    private final int height;
    private final int width;

    /** Of latents [channels, height, width] by tiles of this side. */
    Tiles(int side, int channels, int height, int width) {
        this.side = side;
        this.channels = channels;
        this.height = height;
        this.width = width;
    }

    /** A tile of latents [1, C, side, side] to its picture [1, c, side * scale, side * scale]. */
    interface Decoder {
        Tensor decode(Tensor tile) throws RunnerException, Cancelled;
    }

    /** The picture float32 [1, c, height * scale, width * scale] of latents [C, height, width]. */
    Tensor decode(float[] latents, Decoder decoder) throws RunnerException, Cancelled {
        Canvas canvas = null;
        for (int row : starts(height, side)) {
            for (int column : starts(width, side)) {
                Tensor tile = decoder.decode(cut(latents, row, column));
                int planes = (int) tile.shape()[1];
                int scale = (int) tile.shape()[3] / side;
                if (canvas == null) {
                    canvas = new Canvas(planes, height * scale, width * scale);
                }
                canvas.add(tile.floats(), ramp(side * scale), row * scale, column * scale);
            }
        }
        return canvas.mixed();
    }

    private Tensor cut(float[] latents, int row, int column) {
        int tall = Math.min(side, height - row);
        int wide = Math.min(side, width - column);
        float[] tile = new float[channels * tall * wide];
        for (int line = 0; line < channels * tall; line++) {
            int from = (line / tall * height + row + line % tall) * width + column;
            System.arraycopy(latents, from, tile, line * wide, wide);
        }
        return Tensor.of(tile, 1, channels, tall, wide);
    }

    /** Where tiles begin so that they cover `size`, the last one flush with its end. */
    private static List<Integer> starts(int size, int side) {
        List<Integer> starts = new ArrayList<>();
        int stride = Math.max(1, (int) (side * (1 - OVERLAP)));
        for (int start = 0; start < size - side; start += stride) {
            starts.add(start);
        }
        starts.add(Math.max(0, size - side));
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
