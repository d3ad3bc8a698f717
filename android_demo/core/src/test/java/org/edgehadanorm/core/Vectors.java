package org.edgehadanorm.core;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

import javax.imageio.ImageIO;

/** What Python says, as vectors.py writes it into the folder that the system property `vectors` names. */
public final class Vectors {
    /** What the bundles are for. */
    static final Set<String> TARGETS = Collections.singleton("xnnpack");

    private Vectors() {
    }

    public static File folder(String name) {
        String vectors = System.getProperty("vectors");
        if (vectors == null || !new File(vectors, name).isDirectory()) {
            throw new IllegalStateException("-Dvectors is not a folder that vectors.py made: " + vectors);
        }
        return new File(vectors, name);
    }

    @SuppressWarnings("unchecked")
    public static <T> T json(File file) {
        try {
            return (T) JsonFile.read(file, file.getName(), Integer.MAX_VALUE);
        } catch (BundleException error) {
            throw new IllegalStateException(error);
        }
    }

    /** For a parametrised test: [name, case] of each case; a case without `name` has its number. */
    public static List<Object[]> named(List<Map<String, Object>> cases) {
        List<Object[]> parameters = new ArrayList<>();
        for (Map<String, Object> each : cases) {
            parameters.add(new Object[] {each.getOrDefault("name", parameters.size()).toString(), each});
        }
        return parameters;
    }

    public static float[] floats(File folder, Object name) {
        ByteBuffer buffer = buffer(new File(folder, (String) name));
        float[] values = new float[buffer.remaining() / Float.BYTES];
        buffer.asFloatBuffer().get(values);
        return values;
    }

    public static long[] longs(File folder, Object name) {
        ByteBuffer buffer = buffer(new File(folder, (String) name));
        long[] values = new long[buffer.remaining() / Long.BYTES];
        buffer.asLongBuffer().get(values);
        return values;
    }

    /** {dtype, shape, file}. */
    public static Tensor tensor(File folder, Map<String, Object> entry) {
        List<?> sizes = (List<?>) entry.get("shape");
        long[] shape = sizes.stream().mapToLong(size -> (Long) size).toArray();
        return entry.get("dtype").equals("int64") ? Tensor.of(longs(folder, entry.get("file")), shape)
                : Tensor.of(floats(folder, entry.get("file")), shape);
    }

    /** Pixels [3, height, width] as a picture. */
    public static Picture picture(long[] levels, int height, int width) {
        int plane = height * width;
        int[] argb = new int[plane];
        for (int i = 0; i < plane; i++) {
            argb[i] = (int) (0xFF000000L | levels[i] << 16 | levels[plane + i] << 8 | levels[2 * plane + i]);
        }
        return new Picture(width, height, argb);
    }

    /** A PNG as this platform reads it. */
    public static Picture png(File file) throws IOException {
        java.awt.image.BufferedImage image = ImageIO.read(file);
        int width = image.getWidth();
        int height = image.getHeight();
        return new Picture(width, height, image.getRGB(0, 0, width, height, null, 0, width));
    }

    /** The request, beginning with {picture, mask, strength} of files in a folder, where that is not null. */
    public static Request begun(Request request, File folder, Object original) throws IOException {
        if (original == null) {
            return request;
        }
        Map<?, ?> found = (Map<?, ?>) original;
        Object mask = found.get("mask");
        Optional<Picture> masked = mask == null ? Optional.empty() : Optional.of(png(new File(folder, (String) mask)));
        Picture picture = png(new File(folder, (String) found.get("picture")));
        return request.beginningWith(new Original(picture, masked), ((Number) found.get("strength")).doubleValue());
    }

    public static byte[] bytes(File file) {
        return buffer(file).array();
    }

    private static ByteBuffer buffer(File file) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] chunk = new byte[1 << 16];
        try (InputStream stream = new FileInputStream(file)) {
            for (int count = stream.read(chunk); count >= 0; count = stream.read(chunk)) {
                bytes.write(chunk, 0, count);
            }
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
        return ByteBuffer.wrap(bytes.toByteArray()).order(ByteOrder.LITTLE_ENDIAN);
    }
}
