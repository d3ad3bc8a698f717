package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;

import java.io.File;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

import org.junit.Before;
import org.junit.Test;

/** Values become the pixels that Python makes of them, and pictures are as far apart. */
public class PictureTest {
    private final File folder = Vectors.folder("pictures");
    private final Map<String, Picture> pictures = new HashMap<>();
    private Map<String, List<Map<String, Object>>> expected;

    @Before
    public void read() {
        expected = Vectors.json(new File(folder, "cases.json"));
        for (Map<String, Object> each : expected.get("pictures")) {
            List<?> shape = (List<?>) each.get("shape");
            int height = ((Long) shape.get(1)).intValue();
            int width = ((Long) shape.get(2)).intValue();
            pictures.put((String) each.get("name"),
                    Picture.of(Vectors.floats(folder, each.get("values")), 3, height, width));
        }
    }

    @Test
    public void pixelsArePythons() throws Exception {
        for (Map<String, Object> each : expected.get("pictures")) {
            Picture made = pictures.get(each.get("name"));
            Picture wanted = Vectors.picture(Vectors.longs(folder, each.get("pixels")), made.height(), made.width());
            assertArrayEquals(each.toString(), wanted.argb(), made.argb());
            assertArrayEquals(each.toString(), Vectors.png(new File(folder, (String) each.get("png"))).argb(),
                    made.argb());
            assertEquals(Double.POSITIVE_INFINITY, made.psnr(wanted), 0);
        }
    }

    @Test
    public void valuesAndMasksOfPixelsArePythons() throws Exception {
        for (Map<String, Object> each : expected.get("pictures")) {
            Picture read = Vectors.png(new File(folder, (String) each.get("png")));
            Bits.assertSame(each.toString(), Vectors.floats(folder, each.get("read")), read.values());
            Optional<float[]> mask = new Original(read, Optional.of(read)).maskOf(read.height(), read.width());
            Bits.assertSame(each.toString(), Vectors.floats(folder, each.get("mask")), mask.get());
        }
    }

    @Test
    public void aLatentHasTheMaskOfItsFirstPixel() {
        int light = 0xFFFFFFFF;
        Picture mask = new Picture(4, 4, new int[] {0, light, light, light, light, light, 0, 0, light, 0, 0, 0, 0, 0,
                light, light});
        Original original = new Original(mask, Optional.of(mask));
        assertArrayEquals(new float[] {0, 1, 1, 0}, original.maskOf(2, 2).get(), 0);
        assertFalse(original.masked(Optional.empty()).maskOf(2, 2).isPresent());
    }

    @Test
    public void distancesArePythons() {
        for (Map<String, Object> each : expected.get("distances")) {
            assertEquals(each.toString(), (Double) each.get("psnr_db"),
                    pictures.get(each.get("a")).psnr(pictures.get(each.get("b"))), 1e-9);
        }
    }

    @Test
    public void oneChannelIsGrey() {
        Picture grey = Picture.of(new float[] {-1, 0, 1, Float.NaN}, 1, 2, 2);
        assertArrayEquals(new int[] {0xFF000000, 0xFF808080, 0xFFFFFFFF, 0xFF000000}, grey.argb());
    }

    @Test
    public void otherSizesAreRefused() {
        assertThrows(IllegalArgumentException.class, () -> Picture.of(new float[8], 2, 2, 2));
        assertThrows(IllegalArgumentException.class, () -> Picture.of(new float[11], 3, 2, 2));
        assertThrows(IllegalArgumentException.class, () -> new Picture(2, 2, new int[3]));
        Picture small = new Picture(1, 1, new int[1]);
        assertThrows(IllegalArgumentException.class, () -> small.psnr(new Picture(1, 2, new int[2])));
    }
}
