package org.edgehadanorm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Map;

import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Tensors are read from a safetensors file, and a broken one is refused. */
public class SafetensorsTest {
    @Rule
    public TemporaryFolder scratch = new TemporaryFolder();

    @Test
    public void tensorsHaveTheirNumbers() throws Exception {
        ByteBuffer data = ByteBuffer.allocate(20).order(ByteOrder.LITTLE_ENDIAN);
        data.putLong(-5).putFloat(1.5f).putFloat(-0.0f).putFloat(Float.MIN_VALUE);
        Map<String, Tensor> found = Safetensors.read(file("{\"__metadata__\": {\"format\": \"pt\"},"
                + "\"b\": {\"dtype\": \"F32\", \"shape\": [3, 1], \"data_offsets\": [8, 20]},"
                + "\"a\": {\"dtype\": \"I64\", \"shape\": [1], \"data_offsets\": [0, 8]}}  ", data.array()));
        assertEquals(2, found.size());
        Bits.assertSame("b", Tensor.of(new float[] {1.5f, -0.0f, Float.MIN_VALUE}, 3, 1), found.get("b"));
        assertArrayEquals(new long[] {-5}, found.get("a").longs());
    }

    @Test
    public void brokenFilesAreRefused() throws IOException {
        String good = "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}";
        String[] wrong = {
            "", "[]", "{", "{\"a\": 1}", good.replace("F32", "F16"), good.replace("[2]", "[3]"),
            good.replace("[2]", "[-2]"),
            good.replace("[2]", "2"), good.replace("[0, 8]", "[0]"), good.replace("[0, 8]", "[0, 16]"),
            good.replace("[0, 8]", "[8, 0]"), good.replace("[0, 8]", "[-8, 0]"), good.replace("[0, 8]", "[0, 8.0]"),
            good.replace("[2]", "[4611686018427387904, 4]"), good.replace("[0, 8]", "[4294967296, 4294967304]"),
        };
        for (String header : wrong) {
            refused(header, file(header, new byte[8]));
        }
        byte[] whole = Vectors.bytes(file(good, new byte[8]));
        for (int end = 0; end < whole.length; end++) {
            refused("cut at " + end, Files.write(new File(scratch.getRoot(), "cut"), Arrays.copyOf(whole, end)));
        }
    }

    private void refused(String what, File file) {
        BundleException error = assertThrows(what, BundleException.class, () -> Safetensors.read(file));
        assertTrue(error.getMessage(), error.getMessage().endsWith("copy the bundle again")
                || error.getMessage().endsWith("export the bundle again"));
    }

    private File file(String header, byte[] data) throws IOException {
        byte[] text = header.getBytes("UTF-8");
        ByteBuffer all = ByteBuffer.allocate(8 + text.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
        all.putLong(text.length).put(text).put(data);
        return Files.write(new File(scratch.getRoot(), "file"), all.array());
    }
}
