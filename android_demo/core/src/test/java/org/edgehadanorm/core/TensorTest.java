package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import org.junit.Test;

/** A tensor has the numbers of its shape and kind. */
public class TensorTest {
    @Test
    public void itHasItsNumbers() {
        Tensor floats = Tensor.of(new float[] {1, 2}, 2, 1);
        assertEquals("float32", floats.dtype().toString());
        assertArrayEquals(new float[] {1, 2}, floats.floats(), 0);
        assertArrayEquals(new long[] {2, 1}, floats.shape());
        Tensor scalar = Tensor.of(new long[] {7});
        assertEquals("int64", scalar.dtype().toString());
        assertArrayEquals(new long[] {7}, scalar.longs());
        assertArrayEquals(new long[0], scalar.shape());
    }

    @Test
    public void anotherCountOrKindIsRefused() {
        assertThrows(IllegalArgumentException.class, () -> Tensor.of(new float[3], 2));
        assertThrows(IllegalArgumentException.class, () -> Tensor.of(new long[3], 2, 2));
        assertThrows(IllegalArgumentException.class, () -> Tensor.of(new float[2], -1, -2));
        assertThrows(IllegalStateException.class, () -> Tensor.of(new float[2], 2).longs());
        assertThrows(IllegalStateException.class, () -> Tensor.of(new long[2], 2).floats());
    }
}
