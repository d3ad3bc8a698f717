package org.edgehadanorm.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

/** Picked pictures fill their size around the centre, upright, and are read with bounded memory. */
public final class CutTest {
    private static final int WIDE = 40;
    private static final int HIGH = 30;

    @Test
    public void aPictureOfTheSizeStaysAsItIs() {
        Cut cut = new Cut(1, WIDE, HIGH);
        assertEquals(1, cut.sample(WIDE, HIGH));
        assertArrayEquals(new float[] {1, 0, 0, 0, 1, 0, 0, 0, 1}, cut.matrix(WIDE, HIGH), 0);
    }

    /** Where the first and the last pixel of the first row come to lie, for Exif's orientations from 1. */
    @Test
    public void everyOrientationIsTurnedUpright() {
        int[][] corners = {{0, 0, WIDE, 0}, {WIDE, 0, 0, 0}, {WIDE, HIGH, 0, HIGH}, {0, HIGH, WIDE, HIGH},
            {0, 0, 0, WIDE}, {HIGH, 0, HIGH, WIDE}, {HIGH, WIDE, HIGH, 0}, {0, WIDE, 0, 0}};
        for (int orientation = 1; orientation <= corners.length; orientation++) {
            boolean laid = orientation > 4;
            float[] matrix = new Cut(orientation, laid ? HIGH : WIDE, laid ? WIDE : HIGH).matrix(WIDE, HIGH);
            float[] first = at(matrix, 0, 0);
            float[] last = at(matrix, WIDE, 0);
            int[] expected = corners[orientation - 1];
            assertArrayEquals("orientation " + orientation,
                    new float[] {expected[0], expected[1], expected[2], expected[3]},
                    new float[] {first[0], first[1], last[0], last[1]}, 1e-4f);
        }
        assertArrayEquals(new Cut(1, 2, 2).matrix(4, 4), new Cut(0, 2, 2).matrix(4, 4), 0);
    }

    @Test
    public void theMiddleStaysAndWhatIsTooMuchIsCutOnBothSides() {
        float[] matrix = new Cut(1, 100, 100).matrix(400, 200);
        assertArrayEquals(new float[] {50, 50}, at(matrix, 200, 100), 1e-4f);
        assertArrayEquals(new float[] {-50, 0}, at(matrix, 0, 0), 1e-4f);
        assertArrayEquals(new float[] {150, 100}, at(matrix, 400, 200), 1e-4f);
        assertArrayEquals(new float[] {0, -50}, at(new Cut(6, 100, 100).matrix(400, 200), 0, 200), 1e-4f);
    }

    @Test
    public void aFileIsReadAsSmallAsTheSizeAllows() {
        assertEquals(1, new Cut(1, 512, 512).sample(1023, 4000));
        assertEquals(2, new Cut(1, 512, 512).sample(1024, 4000));
        assertEquals(4, new Cut(1, 512, 512).sample(4000, 3000));
        assertEquals(2, new Cut(1, 1024, 512).sample(2048, 4096));
        assertEquals(4, new Cut(6, 1024, 512).sample(2048, 4096));
        assertEquals(1, new Cut(1, 512, 512).sample(-1, -1));
    }

    @Test
    public void aHugeFileTakesNoMoreMemoryThanOneOfEightMillionPixels() {
        for (int[] size : new int[][] {{60000, 600}, {600, 60000}, {30000, 30000}, {1 << 30, 1}}) {
            int sample = new Cut(1, 512, 512).sample(size[0], size[1]);
            assertTrue((long) (size[0] / sample) * (size[1] / sample) <= 1 << 23);
            assertEquals(sample, Integer.highestOneBit(sample));
        }
    }

    private static float[] at(float[] matrix, float x, float y) {
        return new float[] {matrix[0] * x + matrix[1] * y + matrix[2], matrix[3] * x + matrix[4] * y + matrix[5]};
    }
}
