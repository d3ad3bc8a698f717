package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

import org.junit.Test;

/** Latents are shown as the pixels that they are, or stretched over the range of a picture. */
public class PreviewTest {
    @Test
    public void pixelsAreShownAsTheyAre() {
        float[] values = {-1, 1, 0, 1, -1, -1};
        assertArrayEquals(Picture.of(values, 3, 1, 2).argb(), Preview.of(values, 3, 1, 2, true).argb());
    }

    @Test
    public void threeChannelsOfLatentsAreStretched() {
        float[] latents = {-4, 0, 4, 10, 11, 12, 7, 7, 7, 99, -99, 0};
        Picture shown = Preview.of(latents, 4, 1, 3, false);
        assertEquals(3, shown.width());
        assertArrayEquals(new int[] {0xFF000000, 0xFF808000, 0xFFFFFF00}, shown.argb());
    }

    @Test
    public void threeChannelsNeedNotBePixels() {
        Picture shown = Preview.of(new float[] {-4, 4, 10, 12, 1, 0}, 3, 1, 2, false);
        assertArrayEquals(new int[] {0xFF0000FF, 0xFFFFFF00}, shown.argb());
    }

    @Test
    public void fewerChannelsAreGrey() {
        Picture shown = Preview.of(new float[] {2, 4, 0, 0}, 2, 1, 2, false);
        assertArrayEquals(new int[] {0xFF000000, 0xFFFFFFFF}, shown.argb());
    }

    @Test
    public void brokenNumbersAreShownBlack() {
        Picture shown = Preview.of(new float[] {Float.NaN, 1}, 1, 1, 2, false);
        assertArrayEquals(new int[] {0xFF000000, 0xFF000000}, shown.argb());
    }
}
