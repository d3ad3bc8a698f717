package org.edgehadanorm.core;

import java.util.Arrays;

/**
 * Numbers in row-major order and their shape. The array given is kept, not copied: who makes a tensor leaves its
 * numbers alone afterwards, and so does who reads it.
 */
public final class Tensor {
    private final Dtype dtype;
    private final float[] floats;
    private final long[] longs;
    private final long[] shape;

    private Tensor(Dtype dtype, float[] floats, long[] longs, long[] shape) {
        this.dtype = dtype;
        this.floats = floats;
        this.longs = longs;
        this.shape = shape.clone();
        int count = dtype == Dtype.FLOAT32 ? floats.length : longs.length;
        if (count(shape) != count || Arrays.stream(shape).anyMatch(size -> size < 0)) {
            throw new IllegalArgumentException(count + " numbers for a tensor of shape " + Arrays.toString(shape));
        }
    }

    /** A float32 tensor. Throws IllegalArgumentException where the shape has another number of elements. */
    public static Tensor of(float[] values, long... shape) {
        return new Tensor(Dtype.FLOAT32, values, new long[0], shape);
    }

    /** An int64 tensor. Throws IllegalArgumentException where the shape has another number of elements. */
    public static Tensor of(long[] values, long... shape) {
        return new Tensor(Dtype.INT64, new float[0], values, shape);
    }

    public Dtype dtype() {
        return dtype;
    }

    /** The numbers of a float32 tensor. Throws IllegalStateException for another. */
    public float[] floats() {
        require(Dtype.FLOAT32);
        return floats;
    }

    /** The numbers of an int64 tensor. Throws IllegalStateException for another. */
    public long[] longs() {
        require(Dtype.INT64);
        return longs;
    }

    public long[] shape() {
        return shape.clone();
    }

    /** Numbers that a shape has; 1 for that of a scalar, []. */
    static long count(long[] shape) {
        long count = 1;
        for (long size : shape) {
            count *= size;
        }
        return count;
    }

    private void require(Dtype wanted) {
        if (dtype != wanted) {
            throw new IllegalStateException("the tensor is " + dtype + ", not " + wanted);
        }
    }
}
