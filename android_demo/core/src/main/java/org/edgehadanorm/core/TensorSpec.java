package org.edgehadanorm.core;

import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** An input or output in the manifest: name, dtype as the manifest writes it, shape. */
public final class TensorSpec {
    private final String name;
    private final String dtype;
    private final long[] shape;

    TensorSpec(Map<String, Object> entry) {
        name = (String) entry.get("name");
        dtype = (String) entry.get("dtype");
        List<?> sizes = (List<?>) entry.get("shape");
        shape = new long[sizes.size()];
        for (int i = 0; i < shape.length; i++) {
            shape[i] = (Long) sizes.get(i);
        }
    }

    public String name() {
        return name;
    }

    public String dtype() {
        return dtype;
    }

    public long[] shape() {
        return shape.clone();
    }

    /** Numbers in it. */
    long count() {
        return Tensor.count(shape);
    }

    /** A double, which no shape overflows. */
    double bytes() {
        return Arrays.stream(shape).asDoubleStream().reduce(width(), (all, size) -> all * size);
    }

    /** Bytes of a number. */
    private int width() {
        switch (dtype) {
            case "int64":
                return 8;
            case "float32":
            case "int32":
                return 4;
            case "float16":
            case "bfloat16":
            case "int16":
                return 2;
            default:
                return 1;
        }
    }

    boolean fits(Tensor tensor) {
        return tensor.dtype().toString().equals(dtype) && Arrays.equals(tensor.shape(), shape);
    }

    /** Such as `float32 [1, 8, 128]`. */
    static String describe(Tensor tensor) {
        return tensor.dtype() + " " + Arrays.toString(tensor.shape());
    }

    /** Such as `text float32 [1, 8, 128]`. */
    @Override
    public String toString() {
        return name + " " + dtype + " " + Arrays.toString(shape);
    }
}
