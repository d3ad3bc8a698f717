package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertThrows;

import java.io.File;
import java.util.List;
import java.util.Map;

import org.junit.Test;

/** The noise of a seed has Python's bits. */
public class NoiseTest {
    @Test
    public void everySeedAndStreamHasPythonsBits() {
        File folder = Vectors.folder("noise");
        List<Map<String, Object>> cases = Vectors.json(new File(folder, "cases.json"));
        for (Map<String, Object> each : cases) {
            long seed = (Long) each.get("seed");
            long stream = (Long) each.get("stream");
            float[] expected = Vectors.floats(folder, each.get("file"));
            Bits.assertSame(each.toString(), expected, Noise.normal(seed, expected.length, stream));
            long[] words = ((List<?>) each.get("words")).stream().mapToLong(word -> (Long) word).toArray();
            assertArrayEquals(each.toString(), words, Noise.block(seed, 0, stream));
        }
    }

    @Test
    public void theExampleOfTheDefinition() {
        assertArrayEquals(new long[] {0x6627e8d5L, 0xe169c58dL, 0xbc57ac4cL, 0x9b00dbd8L}, Noise.block(0, 0, 0));
        int[] bits = {0x3f7dbb33, 0xbf6cb6b0, 0xbf1e1b9f, 0xbef6d1b2};
        float[] expected = new float[bits.length];
        for (int i = 0; i < bits.length; i++) {
            expected[i] = Float.intBitsToFloat(bits[i]);
        }
        Bits.assertSame("seed 0", expected, Noise.normal(0, 4, 0));
    }

    @Test
    public void negativeSeedsAndStreamsAreRefused() {
        assertThrows(IllegalArgumentException.class, () -> Noise.normal(-1, 1, 0));
        assertThrows(IllegalArgumentException.class, () -> Noise.normal(0, 1, -1));
        assertThrows(IllegalArgumentException.class, () -> Noise.normal(0, 1, 1L << 32));
    }
}
