package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

/** Equality of float32 numbers bit for bit, so that 0 is not -0. */
final class Bits {
    private Bits() {
    }

    static void assertSame(String message, float[] expected, float[] actual) {
        assertArrayEquals(message, of(expected), of(actual));
    }

    static void assertSame(String message, Tensor expected, Tensor actual) {
        assertEquals(message, TensorSpec.describe(expected), TensorSpec.describe(actual));
        if (expected.dtype() == Dtype.FLOAT32) {
            assertSame(message, expected.floats(), actual.floats());
        } else {
            assertArrayEquals(message, expected.longs(), actual.longs());
        }
    }

    static int[] of(float[] values) {
        int[] bits = new int[values.length];
        for (int i = 0; i < bits.length; i++) {
            bits[i] = Float.floatToRawIntBits(values[i]);
        }
        return bits;
    }
}
